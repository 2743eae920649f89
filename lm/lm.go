// Package lm makes a text model of a checkpoint, its tokenizer and an engine. It scores
// requests for package eval, whose LM it implements, and generates text.
//
// Score turns the requests of an evaluation into trees: requests that begin alike share
// the nodes of what they have in common, so that a context is computed once for all its
// continuations. A tree is cut off when its tokens reach a bound, which keeps memory and
// the time between two results small. The engine promises that none of this changes a
// bit of any result.
//
// A Session generates: it keeps what the engine remembers of the text so far, and when
// it is given a text that begins like the last one, as each turn of a chat does, only
// the rest is computed. A Batch generates several texts side by side.
package lm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/tokenizer"
)

// Options says how a model is run. The zero value is float32 on all processors, up to
// the length the model was made for.
type Options struct {
	Precision engine.Precision
	Threads   int // 0: all processors
	MaxLength int // longest sequence in tokens; 0: max_position_embeddings
	// Identify fills in ModelInfo.Weights, for which all weights are read once more.
	Identify bool
}

// Model is a text model. Score and sessions take turns on its engine.
type Model struct {
	engine    engine.Engine
	tokenizer *tokenizer.Tokenizer
	info      eval.ModelInfo
	ends      []int32 // tokens that end a text
	notes     []string
}

var _ eval.LM = (*Model)(nil)

// Open loads the model at path, a directory, a .gguf file or a name in the local cache
// as checkpoint.Open takes them, to run on the processor. The files are closed when it
// returns.
func Open(ctx context.Context, path string, opt Options) (*Model, error) {
	c, err := openConfigured(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := open(ctx, path, c, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Check reports what Open would refuse, short of what only the weights show, so that a
// run over several models fails before the first of them is loaded.
func Check(path string) error {
	c, err := openConfigured(path)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := prepare(c); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// openConfigured opens a checkpoint whose layers have the widths that its config says.
func openConfigured(path string) (*checkpoint.Checkpoint, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	if err := c.RequireWidths(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func open(ctx context.Context, path string, c *checkpoint.Checkpoint, opt Options) (*Model, error) {
	p, err := prepare(c)
	if err != nil {
		return nil, err
	}
	weights := ""
	if opt.Identify {
		if weights, err = identify(ctx, c, p.model, opt.Threads); err != nil {
			return nil, err
		}
	}
	// What reading the tokenizer and the weights took is several tens of megabytes, which
	// would stay beside the weights until the collector's next round, far off with so
	// large a heap.
	debug.FreeOSMemory()
	e, err := cpu.New(ctx, p.model, c, cpu.Options{Precision: opt.Precision, Threads: opt.Threads, MaxLength: opt.MaxLength})
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory()
	_, parameters := c.Spec.Parameters()
	info := eval.ModelInfo{
		Name: path, Parameters: parameters, Bytes: c.Bytes(), DType: opt.Precision.String(),
		MaxLength: opt.MaxLength, Weights: weights,
	}
	m := New(e, p.tokenizer, info, p.ends)
	m.notes = c.Notes
	return m, nil
}

// prepared is everything of a model but its weights.
type prepared struct {
	model     *arch.Transformer
	tokenizer *tokenizer.Tokenizer
	ends      []int32
}

func prepare(c *checkpoint.Checkpoint) (*prepared, error) {
	model, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	tok, files, err := tokenizerOf(c)
	if err != nil {
		return nil, err
	}
	ends, err := endTokens(c.Config, files)
	return &prepared{model, tok, ends}, err
}

// Tokenizer loads the tokenizer of a checkpoint alone. Where it has none the error is
// fs.ErrNotExist.
func Tokenizer(c *checkpoint.Checkpoint) (*tokenizer.Tokenizer, error) {
	tok, _, err := tokenizerOf(c)
	return tok, err
}

func tokenizerOf(c *checkpoint.Checkpoint) (*tokenizer.Tokenizer, memoryFS, error) {
	files, err := smallFiles(c)
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.LoadFS(files)
	return tok, files, err
}

// New makes a model of an engine and a tokenizer. Of info, what they know is filled in;
// ends are the tokens that end a text, besides the tokenizer's EOS.
func New(e engine.Engine, tok *tokenizer.Tokenizer, info eval.ModelInfo, ends []int32) *Model {
	if info.MaxLength == 0 {
		info.MaxLength = e.Model().MaxPositions
	}
	info.Tokenizer = tok.Fingerprint()
	info.BOS, info.EOS = special(tok, tok.BOS()), special(tok, tok.EOS())
	if info.EOS != nil && !slices.Contains(ends, info.EOS.ID) {
		ends = append(slices.Clone(ends), info.EOS.ID)
	}
	return &Model{engine: e, tokenizer: tok, info: info, ends: ends}
}

func special(tok *tokenizer.Tokenizer, id int32) *eval.Token {
	text, ok := tok.Token(id)
	if !ok {
		return nil
	}
	return &eval.Token{ID: id, Text: text}
}

// Info implements eval.LM.
func (m *Model) Info() eval.ModelInfo { return m.info }

// Notes are what the user should be told about the model, such as a head that is not the
// embedding though the config says so.
func (m *Model) Notes() []string { return m.notes }

// Tokenizer is the model's tokenizer.
func (m *Model) Tokenizer() *tokenizer.Tokenizer { return m.tokenizer }

// Engine is what runs the model.
func (m *Model) Engine() engine.Engine { return m.engine }

// Encode implements eval.LM.
func (m *Model) Encode(text string, addSpecial bool) ([]int32, error) {
	return m.tokenizer.Encode(text, addSpecial), nil
}

// endTokens are the ids that eos_token_id names, one or a list, in
// generation_config.json and, where that is silent, in config.json.
func endTokens(config *arch.Config, files memoryFS) ([]int32, error) {
	const file, key = "generation_config.json", "eos_token_id"
	raw, ok := config.Raw(key)
	name := "config.json"
	if text, err := files.ReadFile(file); err == nil {
		generation, err := arch.ParseConfig(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if v, has := generation.Raw(key); has {
			raw, ok, name = v, true, file
		}
	}
	if !ok {
		return nil, nil
	}
	var one int32
	if json.Unmarshal(raw, &one) == nil {
		return []int32{one}, nil
	}
	var list []int32
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: key %q is neither a token id nor a list of them: %w", name, key, err)
	}
	return list, nil
}

// memoryFS is the checkpoint's small files by name, for tokenizer.LoadFS.
type memoryFS map[string][]byte

// ReadFile implements fs.ReadFileFS.
func (m memoryFS) ReadFile(name string) ([]byte, error) {
	b, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b, nil
}

// Open implements fs.FS; nothing but ReadFile is needed.
func (m memoryFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// smallFiles reads the files that tokenizer and generation need.
func smallFiles(c *checkpoint.Checkpoint) (memoryFS, error) {
	const limit = 256 << 20 // far above any tokenizer.json
	wanted := []string{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
	files := memoryFS{}
	for _, x := range c.Extra() {
		if !slices.Contains(wanted, x.Name) {
			continue
		}
		f, err := x.Open()
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, limit+1))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Name, err)
		}
		if len(b) > limit {
			return nil, fmt.Errorf("%s is larger than %d MiB", x.Name, limit>>20)
		}
		files[x.Name] = b
	}
	return files, nil
}
