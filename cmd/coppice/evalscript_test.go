package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coppice-lm/coppice/internal/synth"
)

// withEval adds script commands about tokenizers and results:
//
//	tokenizer DIR [key=value...]   give a model of synth a tokenizer (writeTokenizer)
//	find NAME PATTERN              set the variable NAME to the one path that matches
//	strict PATTERN...              every file holds strict JSON (of .jsonl: every line)
//	keys FILE PATH KEY...          the object at a path has exactly these keys, in this order
//	sameresults A B                two outputs of eval differ in dates and times alone
func withEval(commands map[string]func(*testscript.TestScript, bool, []string)) map[string]func(*testscript.TestScript, bool, []string) {
	maps.Copy(commands, map[string]func(*testscript.TestScript, bool, []string){
		"tokenizer": command(1, -1, func(ts *testscript.TestScript, a []string) error { return writeTokenizer(ts.MkAbs(a[0]), a[1:]) }),
		"find":      command(2, 2, findOne),
		"strict":    command(1, -1, checkStrict),
		"keys":      command(2, -1, checkKeys),
		"sameresults": command(2, 2, func(ts *testscript.TestScript, a []string) error {
			return compareResults(ts.MkAbs(a[0]), ts.MkAbs(a[1]))
		}),
	})
	return commands
}

// writeTokenizer writes synth's byte-level tokenizer, changed by settings:
//
//	bos=true         the post-processor adds BOS
//	prefix=none      the config names neither BOS nor EOS
//	chat=TEMPLATE    a chat template
//	merge="a b"      a merge, whose token follows the others
//	words=false      text is not split into words, so that merges cross spaces
func writeTokenizer(dir string, settings []string) error {
	var file, config map[string]any
	for _, part := range []struct {
		data []byte
		to   *map[string]any
	}{{synth.Tokenizer(), &file}, {synth.TokenizerConfig(), &config}} {
		if err := json.Unmarshal(part.data, part.to); err != nil {
			return err
		}
	}
	model := file["model"].(map[string]any)
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		switch key {
		case "bos":
			piece := func(kind, id string) map[string]any {
				return map[string]any{kind: map[string]any{"id": id, "type_id": 0}}
			}
			file["post_processor"] = map[string]any{
				"type":   "TemplateProcessing",
				"single": []any{piece("SpecialToken", synth.EndOfText), piece("Sequence", "A")},
				"pair":   []any{},
				"special_tokens": map[string]any{synth.EndOfText: map[string]any{
					"id": synth.EndOfText, "ids": []int{synth.VocabSize - 1}, "tokens": []string{synth.EndOfText},
				}},
			}
		case "prefix":
			delete(config, "bos_token")
			delete(config, "eos_token")
		case "words":
			file["pre_tokenizer"].(map[string]any)["use_regex"] = value != "false"
		case "chat":
			config["chat_template"] = value
		case "merge":
			vocab := model["vocab"].(map[string]any)
			vocab[strings.ReplaceAll(value, " ", "")] = len(vocab) + 1
			model["merges"] = append(model["merges"].([]any), value)
		default:
			return fmt.Errorf("unknown setting %q", s)
		}
	}
	writeAs := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), b, 0o666)
	}
	return errors.Join(writeAs("tokenizer.json", file), writeAs("tokenizer_config.json", config))
}

func findOne(ts *testscript.TestScript, args []string) error {
	found, err := filepath.Glob(ts.MkAbs(args[1]))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d files match %s: %q", len(found), args[1], found)
	}
	ts.Setenv(args[0], found[0])
	return nil
}

func checkStrict(ts *testscript.TestScript, args []string) error {
	for _, pattern := range args {
		found := []string{pattern}
		if pattern != "stdout" {
			var err error
			if found, err = filepath.Glob(ts.MkAbs(pattern)); err != nil || len(found) == 0 {
				return fmt.Errorf("%s: no such file (%v)", pattern, err)
			}
		}
		for _, path := range found {
			values := []string{ts.ReadFile(path)}
			if strings.HasSuffix(path, ".jsonl") {
				values = strings.Split(strings.TrimSuffix(values[0], "\n"), "\n")
			}
			for i, v := range values {
				if err := strictJSON(v); err != nil {
					return fmt.Errorf("%s, value %d: %w", path, i, err)
				}
			}
		}
	}
	return nil
}

// strictJSON refuses what encoding/json lets pass: a key that is there twice, and more
// than one value. NaN and Infinity it refuses itself.
func strictJSON(text string) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := readValue(d); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one value")
	}
	return nil
}

func readValue(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			if seen[key.(string)] {
				return fmt.Errorf("the key %q is there twice", key)
			}
			seen[key.(string)] = true
		}
		if err := readValue(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func checkKeys(ts *testscript.TestScript, args []string) error {
	raw := json.RawMessage(ts.ReadFile(args[0]))
	if args[1] != "." {
		for _, key := range strings.Split(args[1], ".") {
			var o map[string]json.RawMessage
			if err := json.Unmarshal(raw, &o); err != nil {
				return err
			}
			raw = o[key]
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%s: no object at %s", args[0], args[1])
	}
	var keys []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		keys = append(keys, key.(string))
		if err := readValue(d); err != nil {
			return err
		}
	}
	if !slices.Equal(keys, args[2:]) {
		return fmt.Errorf("%s: the keys of %s are %q, want %q", args[0], args[1], keys, args[2:])
	}
	return nil
}

// The parts of an output that differ between two runs of the same evaluation: the dates in
// names, date and duration in results. Usage is about nothing else.
var (
	resultDate = regexp.MustCompile(`_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}`)
	resultTime = regexp.MustCompile(`(?m)^  "(date|total_evaluation_time_seconds)": .*$`)
)

// resultFiles returns the contents of what eval -o wrote, its dates and times cut out. The
// ledger's lines are sorted, as they stand in the order in which requests were done.
func resultFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), "usage_") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		text := resultTime.ReplaceAllString(string(b), "")
		if e.Name() == "ledger.jsonl" {
			text = strings.Join(slices.Sorted(slices.Values(strings.SplitAfter(text, "\n"))), "")
		}
		name := resultDate.ReplaceAllString(e.Name(), "")
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("%s: two results in one directory", dir)
		}
		files[name] = text
	}
	return files, nil
}

func compareResults(a, b string) error {
	of, err := resultFiles(a)
	if err != nil {
		return err
	}
	and, err := resultFiles(b)
	if err != nil {
		return err
	}
	if _, ok := of["results.json"]; !ok {
		return fmt.Errorf("%s: no results", a)
	}
	if diff := cmp.Diff(of, and); diff != "" {
		return errors.New(diff)
	}
	return nil
}
