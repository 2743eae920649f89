package calib

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/lm"
)

// builtInOpenings are beginnings of fiction and of talk, a sentence or less each.
//
//go:embed openings.txt
var builtInOpenings []byte

// Openings are beginnings of texts, for a model to go on from.
type Openings struct{ lines []document }

// BuiltInOpenings returns those that the program carries.
func BuiltInOpenings() *Openings {
	o, err := parseOpenings("the built-in openings", builtInOpenings)
	if err != nil {
		panic(err) // a test reads them
	}
	return o
}

// ReadOpenings reads a file of openings, a line each. Blank lines are skipped.
func ReadOpenings(path string) (*Openings, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseOpenings(path, data)
}

func parseOpenings(name string, data []byte) (*Openings, error) {
	o := &Openings{}
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		number++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		at := fmt.Sprintf("%s:%d", name, number)
		if !utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0 {
			return nil, fmt.Errorf("%s: is not text in UTF-8; openings are lines of text", at)
		}
		if strings.TrimSpace(string(line)) != "" {
			o.lines = append(o.lines, document{name: at, text: string(line)})
		}
	}
	if len(o.lines) == 0 {
		return nil, fmt.Errorf("%s: holds no opening; give it a line of text for each", name)
	}
	return o, nil
}

// Len is their number.
func (o *Openings) Len() int { return len(o.lines) }

// fingerprint identifies them, wherever they were read from.
func (o *Openings) fingerprint() string {
	h := sha256.New()
	for _, l := range o.lines {
		h.Write([]byte(l.text + "\n"))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// encode returns the prompts that they are to a model.
func (o *Openings) encode(m *lm.Model) ([][]int32, error) {
	var prompts [][]int32
	vocab := m.Engine().Model().Vocab
	for _, l := range o.lines {
		prompt := m.Prompt(l.text)
		if n, most := len(prompt), m.Info().MaxLength; n > most {
			return nil, fmt.Errorf("%s: an opening of %d tokens is longer than the %d that the model takes; shorten it", l.name, n, most)
		}
		for _, t := range prompt {
			if t < 0 || int(t) >= vocab {
				return nil, fmt.Errorf("%s: token %d is not in the model's vocabulary of %d: the tokenizer belongs to another model", l.name, t, vocab)
			}
		}
		prompts = append(prompts, prompt)
	}
	return prompts, nil
}
