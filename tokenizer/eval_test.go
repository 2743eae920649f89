package tokenizer

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/coppice-lm/coppice/internal/shared"
)

// TestRecordedRequests rebuilds the requests that lm-eval sent (../shared/golden/eval)
// from the records of the data, and compares every id.
func TestRecordedRequests(t *testing.T) {
	dir := shared.Dir(t)
	tok := smolLM(t)
	prompt := prompts(t, filepath.Join(dir, "data"))
	n := 0
	for _, line := range readLines(t, filepath.Join(dir, "golden/eval/smol.jsonl")) {
		var r struct {
			Task                  string
			Doc, Choice           int
			Context, Continuation []int32
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Context == nil {
			continue // a summary
		}
		n++
		context, continuation := prompt(r.Task, r.Doc, r.Choice)
		trimmed := strings.TrimRightFunc(context, unicode.IsSpace)
		continuation = context[len(trimmed):] + continuation
		ids, whole := tok.Encode(trimmed, true), tok.Encode(trimmed+continuation, true)
		if !slices.Equal(ids, r.Context) || !slices.Equal(whole[len(ids):], r.Continuation) {
			t.Errorf("%s %d choice %d:\n got %v + %v\nwant %v + %v", r.Task, r.Doc, r.Choice,
				ids, whole[min(len(ids), len(whole)):], r.Context, r.Continuation)
		}
	}
	if n != 780 {
		t.Errorf("compared %d requests, want 780", n)
	}
}

// prompts returns the context and continuation of a task's record, as EVALUATION.md
// defines them.
func prompts(t *testing.T, data string) func(task string, doc, choice int) (string, string) {
	type arc struct {
		Question struct {
			Stem    string
			Choices []struct{ Text string }
		}
	}
	type boolq struct{ Passage, Question string }
	type lambada struct{ Text string }
	type musr struct {
		Narrative, Question string
		Choices             []string
	}
	arcs := readJSONL[arc](t, filepath.Join(data, "arc_easy/ARC-Easy-Test.jsonl"))
	boolqs := readJSONL[boolq](t, filepath.Join(data, "boolq/superglue_val.jsonl"))
	openai := readJSONL[lambada](t, filepath.Join(data, "lambada_openai/lambada_test.jsonl"))
	standard := readLines(t, filepath.Join(data, "lambada_standard/lambada_test_plain_text.txt"))
	musrs := map[string][]musr{}
	for _, part := range []string{"murder_mysteries", "object_placements", "team_allocation"} {
		musrs["musr_"+part] = readJSONL[musr](t, filepath.Join(data, "musr", part+".jsonl"))
	}
	lastWord := func(text string) (string, string) {
		i := strings.LastIndexByte(text, ' ')
		return text[:i], text[i:]
	}
	return func(task string, doc, choice int) (string, string) {
		switch task {
		case "arc_easy":
			q := arcs[doc].Question
			return "Question: " + q.Stem + "\nAnswer:", " " + q.Choices[choice].Text
		case "boolq":
			r := boolqs[doc]
			return r.Passage + "\nQuestion: " + r.Question + "?\nAnswer:", []string{" no", " yes"}[choice]
		case "lambada_openai":
			return lastWord(openai[doc].Text)
		case "lambada_standard":
			return lastWord(standard[doc])
		}
		r, ok := musrs[task]
		if !ok {
			t.Fatalf("unknown task %q", task)
		}
		var list strings.Builder
		for i, c := range r[doc].Choices {
			fmt.Fprintf(&list, "%d - %s\n", i+1, c)
		}
		return r[doc].Narrative + "\n\n" + r[doc].Question + "\n\n" + list.String() + "\nAnswer:",
			" " + r[doc].Choices[choice]
	}
}

// TestRecordedPages decodes the recorded wikitext pages, joins their windows, and
// encodes the text again.
func TestRecordedPages(t *testing.T) {
	tok := smolLM(t)
	pages := map[int][]int32{}
	for _, line := range readLines(t, filepath.Join(shared.Dir(t), "golden/eval/wikitext.jsonl")) {
		var r struct {
			Page         *int
			Continuation []int32
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Page != nil {
			pages[*r.Page] = append(pages[*r.Page], r.Continuation...)
		}
	}
	if len(pages) == 0 {
		t.Fatal("no page is recorded")
	}
	for page, want := range pages {
		text := tok.Decode(want, false)
		if got := tok.Encode(text, true); !slices.Equal(got, want) {
			t.Errorf("page %d: %d ids of %d bytes differ from the %d recorded", page, len(got), len(text), len(want))
		}
	}
}
