// Command ablation writes the texts of the ablation in docs/methods.md out of the shared
// data: one to calibrate on, and two to measure on besides LAMBADA.
//
//	go run ./tools/ablation -shared ../shared -o DIR
//
// Calibration text is C4 (the first half of the sample) and -wikipedia times as many bytes
// of Wikipedia; whatever of it shares a run of 13 words with any evaluation text is left
// out.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

func main() {
	log.SetFlags(0)
	sharedDir := flag.String("shared", "../shared", "directory of the shared data")
	out := flag.String("o", "", "directory to write")
	wikipedia := flag.Float64("wikipedia", 1, "bytes of Wikipedia for each byte of C4; at most about 5 are there")
	flag.Parse()
	if *out == "" {
		log.Fatal("-o DIR is needed: the directory to write")
	}
	t, err := prepare(*sharedDir, *wikipedia)
	if err == nil {
		err = t.write(*out)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("calibration: %d documents, %d dropped for a run of %d words that an evaluation text has too\n", len(t.calibration), t.dropped, runWords)
}

// texts is what is written.
type texts struct {
	calibration []string // documents
	dropped     int
	wikitext    string
	c4          string
}

// evaluationBytes is how much of each text is measured on.
const evaluationBytes = 100_000

// prepare reads the shared data and sorts it into calibration and evaluation, with
// wikiShare bytes of Wikipedia for each byte of C4 to calibrate on.
func prepare(dir string, wikiShare float64) (*texts, error) {
	path := func(name string) string { return filepath.Join(dir, "data", filepath.FromSlash(name)) }
	c4, err := jsonTexts(path("calibration/c4_demo.jsonl"))
	if err != nil {
		return nil, err
	}
	wikipedia, err := articles(path("calibration/wiki.utf8"))
	if err != nil {
		return nil, err
	}
	wikitext, err := os.ReadFile(path("wikitext2/wiki.test.raw"))
	if err != nil {
		return nil, err
	}
	lambada, err := jsonTexts(path("lambada_openai/lambada_test.jsonl"))
	if err != nil {
		return nil, err
	}
	standard, err := os.ReadFile(path("lambada_standard/lambada_test_plain_text.txt"))
	if err != nil {
		return nil, err
	}
	half := len(c4) / 2
	seen := runs{}
	for _, text := range append(append(lambada, c4[half:]...), string(wikitext), string(standard)) {
		seen.add(text)
	}
	t := &texts{wikitext: head(string(wikitext)), c4: head(strings.Join(c4[half:], "\n\n"))}
	keep := func(text string) bool {
		if seen.has(text) {
			t.dropped++
			return false
		}
		t.calibration = append(t.calibration, text)
		return true
	}
	bytes := 0
	for _, text := range c4[:half] {
		if keep(text) {
			bytes += len(text)
		}
	}
	// Wikipedia from articles that are far apart.
	const stride = 7
	bytes = int(wikiShare * float64(bytes))
	for i := 0; i < len(wikipedia) && bytes > 0; i++ {
		at := i * stride % len(wikipedia)
		if text := wikipedia[at]; keep(text) {
			bytes -= len(text)
		}
	}
	return t, nil
}

// head is the text up to the line end at or before evaluationBytes.
func head(text string) string {
	if len(text) <= evaluationBytes {
		return text
	}
	return text[:strings.LastIndexByte(text[:evaluationBytes], '\n')+1]
}

// jsonTexts reads the field text of each line.
func jsonTexts(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []string
	for dec := json.NewDecoder(bytes.NewReader(b)); ; {
		var r struct{ Text string }
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: record %d: %w", path, len(all)+1, err)
		}
		all = append(all, r.Text)
	}
}

// articles reads the text between <doc ...> and </doc>.
func articles(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	var text strings.Builder
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "<doc "):
			text.Reset()
		case strings.HasPrefix(line, "</doc>"):
			if s := strings.TrimSpace(text.String()); s != "" {
				all = append(all, s)
			}
		default:
			text.WriteString(line + "\n")
		}
	}
	return all, lines.Err()
}

// runWords is the length of a run of words that two texts must not share, the usual
// measure of contamination since GPT-3 (arXiv 2005.14165, appendix C).
const runWords = 13

// runs is the set of runs of words of some texts.
type runs map[string]bool

func (r runs) add(text string) { eachRun(text, func(run string) bool { r[run] = true; return false }) }

// has reports whether the text has a run of the set.
func (r runs) has(text string) bool {
	return eachRun(text, func(run string) bool { return r[run] })
}

// eachRun calls f with every run of words, lower case and without punctuation, until it
// returns true.
func eachRun(text string, f func(run string) bool) bool {
	words := strings.FieldsFunc(strings.ToLower(text), func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) })
	for i := 0; i+runWords <= len(words); i++ {
		if f(strings.Join(words[i:i+runWords], " ")) {
			return true
		}
	}
	return false
}

func (t *texts) write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, text := range t.calibration {
		line, err := json.Marshal(map[string]string{"text": text})
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	for name, data := range map[string][]byte{"calibration.jsonl": b.Bytes(), "wikitext.txt": []byte(t.wikitext), "c4.txt": []byte(t.c4)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			return err
		}
	}
	return nil
}
