package tasks

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
)

// WikiText-2: good articles of Wikipedia (Merity et al. 2016, arXiv:1609.07843), a page a
// document. The model reads the page as it was before it was split into tokens; words and
// bytes are counted on the page as the data set has it.
func wikitext() Definition {
	return Definition{
		Name: "wikitext", Summary: "WikiText-2: perplexity of whole Wikipedia pages",
		Files: []string{"wikitext2/wiki.test.raw", "wikitext/wiki.test.raw", "wikitext-2-raw/wiki.test.raw"},
		Kind:  eval.Rolling, Metrics: []string{eval.WordPerplexity, eval.BytePerplexity, eval.BitsPerByte}, Version: 2,
		read: readWikitext,
		doc:  wikitextDoc,
	}
}

func wikitextDoc(r record) (eval.Doc, error) {
	page, err := r.text("page")
	if err != nil {
		return eval.Doc{}, err
	}
	text := detokenize(page)
	return eval.Doc{Text: text, Target: text, Words: eval.CountWords(page), Bytes: len(page)}, nil
}

// readWikitext reads the raw file as it was released, or rows: of the document-level data
// set, with a page each, or of the data-set library's own, with a line each.
func readWikitext(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !isStructured(data) {
		if !utf8.Valid(data) {
			return nil, fmt.Errorf("%s: the text is not valid UTF-8", path)
		}
		return pageRecords(path, string(data))
	}
	records, err := parseRecords(path, data)
	if err != nil || records[0].has("page") {
		return records, err
	}
	var raw strings.Builder
	for _, r := range records {
		line, err := r.text("text")
		if err != nil {
			return nil, r.errorf(path, err)
		}
		if line == "" { // what the library makes of the blank lines of the release
			line = " \n"
		}
		raw.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			raw.WriteByte('\n')
		}
	}
	return pageRecords(path, raw.String())
}

// pageRecords cuts a raw file into pages, each from one heading of level 1 to the next.
func pageRecords(path, raw string) ([]record, error) {
	var records []record
	lines := strings.Split(raw, "\n")
	begin := 0
	add := func(end int) error {
		page := strings.Join(lines[begin:end], "\n")
		if strings.TrimFunc(page, eval.IsSpace) == "" {
			return nil
		}
		r, err := textRecord("page", page, begin+1)
		records = append(records, r)
		return err
	}
	for i, line := range lines {
		if !isPageHeading(line) {
			continue
		}
		if err := add(i); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, begin+1, err)
		}
		begin = i
	}
	if err := add(len(lines)); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, begin+1, err)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%s: it holds no page", path)
	}
	return records, nil
}

// isPageHeading reports whether a line is " = Title = ": one equals sign at either end.
func isPageHeading(line string) bool {
	line = strings.ReplaceAll(line, "= = =", "===")
	line = strings.ReplaceAll(line, "= =", "==")
	line = strings.TrimFunc(line, eval.IsSpace)
	return strings.HasPrefix(line, "= ") && strings.HasSuffix(line, " =")
}
