package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/safetensors"
)

const (
	configName  = "config.json"
	singleName  = "model.safetensors"
	indexName   = "model.safetensors.index.json"
	maxJSONFile = 100 << 20 // bound on config and index; real ones are below 1 MB
)

// openDir opens a Hugging Face directory.
func openDir(dir string) (*Checkpoint, error) {
	c := &Checkpoint{Path: dir, sources: map[string]source{}}
	if err := c.readConfig(filepath.Join(dir, configName)); err != nil {
		return nil, err
	}
	shards, err := findShards(dir)
	if err != nil {
		return nil, err
	}
	for _, s := range shards {
		if err := c.addShard(dir, s); err != nil {
			c.Close()
			return nil, err
		}
	}
	if c.extra, err = extraFiles(dir); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// OpenConfig reads a config.json alone: the architecture without any weights.
func OpenConfig(path string) (*arch.Config, arch.Spec, error) {
	c := &Checkpoint{}
	err := c.readConfig(path)
	return c.Config, c.Spec, err
}

func (c *Checkpoint) readConfig(path string) error {
	raw, err := readSmall(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: not there; a model directory holds config.json beside its weights", path)
		}
		return err
	}
	if c.Config, err = arch.ParseConfig(raw); err != nil {
		return fmt.Errorf("%s: %w; correct the file or fetch it again", path, err)
	}
	if c.Spec, err = arch.FromConfig(c.Config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readSmall reads a text file of bounded size.
func readSmall(path string) ([]byte, error) {
	f, err := openData(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.size > maxJSONFile {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d expected of such a file", path, f.size, maxJSONFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxJSONFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// shard is a file of weights and, where an index says so, the names it is asked for.
type shard struct {
	name  string
	names []string // nil: all
}

// findShards says which files hold the weights. Where there is an index it alone
// decides; files beside those it names are not read.
func findShards(dir string) ([]shard, error) {
	path := filepath.Join(dir, indexName)
	raw, err := readSmall(path)
	if err == nil {
		s, err := parseIndex(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; correct the index or fetch it again", path, err)
		}
		return s, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, singleName)); err == nil {
		return []shard{{name: singleName}}, nil
	}
	found, err := filepath.Glob(filepath.Join(globEscape(dir), "*.safetensors"))
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 1:
		return []shard{{name: filepath.Base(found[0])}}, nil
	case 0:
		for _, other := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"} {
			if _, err := os.Stat(filepath.Join(dir, other)); err == nil {
				return nil, fmt.Errorf("%s: holds %s but no safetensors; save the model as safetensors first", dir, other)
			}
		}
		return nil, &NoWeightsError{dir}
	}
	return nil, fmt.Errorf("%s: %d safetensors files and no %s to say which tensor is where", dir, len(found), indexName)
}

// NoWeightsError says that a directory has a config.json that can be read but no weights
// in any form.
type NoWeightsError struct{ Dir string }

func (e *NoWeightsError) Error() string {
	return fmt.Sprintf("%s: no weights: expected %s or %s; fetch them", e.Dir, singleName, indexName)
}

// globEscape makes a directory's name literal in a pattern.
func globEscape(dir string) string {
	return strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, `\`, `\\`).Replace(dir)
}

// parseIndex reads weight_map, and returns the shards in the order of their names.
// metadata.total_size is not believed, so it is not read.
func parseIndex(raw []byte) ([]shard, error) {
	cfg, err := arch.ParseConfig(raw) // also refuses duplicate keys
	if err != nil {
		return nil, err
	}
	v, ok := cfg.Raw("weight_map")
	if !ok {
		return nil, fmt.Errorf("key \"weight_map\" is missing")
	}
	if _, err := arch.ParseConfig(v); err != nil {
		return nil, fmt.Errorf("weight_map: %w", err)
	}
	var weightMap map[string]string
	if err := json.Unmarshal(v, &weightMap); err != nil {
		return nil, fmt.Errorf("weight_map: not a map from tensor to file: %w", err)
	}
	if len(weightMap) == 0 {
		return nil, fmt.Errorf("weight_map names no tensor")
	}
	byFile := map[string][]string{}
	for t, file := range weightMap {
		if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\\x00") {
			return nil, fmt.Errorf("tensor %q is said to be in %q, which is not a plain file name in this directory", t, file)
		}
		byFile[file] = append(byFile[file], t)
	}
	var shards []shard
	for file, names := range byFile {
		slices.Sort(names)
		shards = append(shards, shard{file, names})
	}
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.name, b.name) })
	return shards, nil
}

// addShard reads a shard's header and takes from it the tensors that are asked for.
func (c *Checkpoint) addShard(dir string, s shard) error {
	path := filepath.Join(dir, s.name)
	f, err := openData(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: not there, though %s names it for tensor %q; fetch the missing shard", path, indexName, s.names[0])
		}
		return err
	}
	c.files = append(c.files, f)
	h, err := safetensors.ReadHeader(f, f.size)
	if err != nil {
		return fmt.Errorf("%s: %w; fetch the file again, or save the model anew", path, err)
	}
	for _, name := range s.names {
		if _, ok := h.Lookup(name); !ok {
			return fmt.Errorf("%s: does not hold tensor %q, though %s says so; fetch both files again", path, name, indexName)
		}
	}
	for _, e := range h.Tensors {
		if s.names != nil {
			if _, ok := slices.BinarySearch(s.names, e.Name); !ok {
				continue
			}
		}
		c.infos = append(c.infos, e.Info)
		c.sources[e.Name] = source{info: e.Info, file: f, begin: e.Begin}
	}
	return nil
}
