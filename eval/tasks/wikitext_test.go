package tasks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

func TestDetokenize(t *testing.T) {
	for page, want := range map[string]string{
		"the boys ' day":                   "the boys' day",
		"well @-@ known 1 @,@ 000 3 @.@ 5": "well-known 1,000 3.5",
		"a : b ; c . d ! e ? f , g":        "a: b; c. d! e? f, g",
		"( a ) [ b ] { c } \" d \" ' e '":  "(a) [b] {c} \"d\" 'e'",
		"(\u2003a\u00a0)(\x1fb )":          "(a)(b)", // Python's white space
		"= = = = x = = = y = =":            "==== x === y ==",
		" 12 ° C":                          " 12°C",
		"a \n b":                           "a\nb",
		"N N is N \n":                      "N 1 is N\n", // the first N has no space before it
		"he 's":                            "he's",
		"( a ( b )":                        "(a ( b)", // up to the next closing mark
		"\" a":                             "\" a",
		"/' 7/":                            "/'[0-9]/", // lm-eval's slip
	} {
		if got := detokenize(page); got != want {
			t.Errorf("%q became %q, want %q", page, got, want)
		}
	}
}

// pagesOf reads the pages of a raw file.
func pagesOf(t *testing.T, name, text string) (pages []string, lines []int) {
	t.Helper()
	task, err := definition(t, "wikitext").Load(writeFile(t, name, text))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range task.Docs {
		r, err := parseRecord(d.Record)
		if err != nil {
			t.Fatal(err)
		}
		page, err := r.text("page")
		if err != nil {
			t.Fatal(err)
		}
		if d.Bytes != len(page) || d.Words != eval.CountWords(page) {
			t.Errorf("page %q: %d words, %d bytes", page, d.Words, d.Bytes)
		}
		pages, lines = append(pages, page), append(lines, d.Line)
	}
	return pages, lines
}

func TestPages(t *testing.T) {
	raw := " \n = One = \n \n text \n = = Part = = \n = = = Sub = = = \n = Two = \n end \n"
	want := []string{" = One = \n \n text \n = = Part = = \n = = = Sub = = = ", " = Two = \n end \n"}
	pages, lines := pagesOf(t, "wiki.raw", raw)
	if diff := cmp.Diff(want, pages); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{2, 7}, lines); diff != "" {
		t.Error(diff)
	}
	// The rows of the data-set library: a blank line is an empty text.
	var rows strings.Builder
	for _, line := range strings.SplitAfter(strings.TrimSuffix(raw, "\n"), "\n") {
		if line == " \n" {
			line = ""
		}
		record, err := textRecord("text", strings.TrimSuffix(line, "\n")+map[bool]string{true: "\n"}[line != ""], 0)
		if err != nil {
			t.Fatal(err)
		}
		rows.Write(append(record.raw, '\n'))
	}
	fromRows, _ := pagesOf(t, "wiki.jsonl", rows.String())
	if diff := cmp.Diff(want, fromRows); diff != "" {
		t.Error(diff)
	}
	documents := `{"page":" = One = \n a"}` + "\n" + `{"page":" = Two = \n b \n"}` + "\n"
	fromDocuments, _ := pagesOf(t, "pages.jsonl", documents)
	if diff := cmp.Diff([]string{" = One = \n a", " = Two = \n b \n"}, fromDocuments); diff != "" {
		t.Error(diff)
	}
	// Text before the first heading is a page unless it is blank.
	before, _ := pagesOf(t, "wiki.raw", "lead \n = One = \n a \n")
	if diff := cmp.Diff([]string{"lead ", " = One = \n a \n"}, before); diff != "" {
		t.Error(diff)
	}
}

func TestPageHeading(t *testing.T) {
	for line, want := range map[string]bool{
		" = Title = ": true, "= Title =": true, " = = Part = = ": false, " = = = Sub = = = ": false,
		" = a = b = ": true, "= ": false, " text ": false, " = open ": false, "\u00a0= Title =\u2003": true, "": false,
	} {
		if got := isPageHeading(line); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestWikitextErrors(t *testing.T) {
	for text, want := range map[string]string{"\xff": "UTF-8", " \n \n": "no page"} {
		if _, err := definition(t, "wikitext").Load(writeFile(t, "wiki.raw", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}
