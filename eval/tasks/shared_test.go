package tasks

import (
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/shared"
)

// The shared files hold as many records as their sets are published with.
func TestSharedCounts(t *testing.T) {
	dir := filepath.Join(shared.Dir(t), "data")
	for name, want := range map[string]int{
		"arc_easy": 2376, "boolq": 3270, "lambada_openai": 5153, "lambada_standard": 5153, "wikitext": 62,
		"musr_murder_mysteries": 250, "musr_object_placements": 256, "musr_team_allocation": 250,
	} {
		tasks, err := Open([]string{name}, Data{Dir: dir})
		if err != nil {
			t.Error(err)
			continue
		}
		if got := len(tasks[0].Docs); got != want {
			t.Errorf("%s has %d records, want %d", name, got, want)
		}
	}
	// A group's tasks enter its mean where the group is asked for, and only there.
	for _, c := range []struct {
		names []string
		tasks int
		group string
	}{
		{[]string{"musr_team_allocation", "musr"}, 3, "musr"},
		{[]string{"musr", "musr_team_allocation"}, 3, "musr"},
		{[]string{"leaderboard_musr_team_allocation"}, 1, ""},
	} {
		tasks, err := Open(c.names, Data{Dir: dir})
		if err != nil || len(tasks) != c.tasks {
			t.Errorf("%v: %d tasks, %v", c.names, len(tasks), err)
			continue
		}
		for _, task := range tasks {
			if task.Group != c.group {
				t.Errorf("%v: %s is of group %q", c.names, task.Name, task.Group)
			}
		}
	}
}

// Both forms of BoolQ give the same texts, and 2,033 of 3,270 answers are yes.
func TestSharedBoolQ(t *testing.T) {
	dir := filepath.Join(shared.Dir(t), "data", "boolq")
	superGLUE, err := definition(t, "boolq").Load(filepath.Join(dir, "superglue_val.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	original, err := definition(t, "boolq").Load(filepath.Join(dir, "dev.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	yes := 0
	for i, d := range superGLUE.Docs {
		yes += d.Gold
		if o := original.Docs[i]; o.Gold != d.Gold || o.Pairs[0] != d.Pairs[0] {
			t.Fatalf("record %d differs:\n%q\n%q", i, d.Pairs[0], o.Pairs[0])
		}
	}
	if yes != 2033 {
		t.Errorf("%d answers are yes", yes)
	}
}

// ARC-Easy has questions of three to five choices, some with digits as labels.
func TestSharedARC(t *testing.T) {
	tasks, err := Open([]string{"arc_easy"}, Data{Dir: filepath.Join(shared.Dir(t), "data")})
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for _, d := range tasks[0].Docs {
		count[len(d.Pairs)]++
	}
	if count[3] != 7 || count[5] != 4 || count[4] != 2376-11 {
		t.Errorf("questions by number of choices: %v", count)
	}
}

// Words and bytes of a page, as recorded from lm-eval, and of all 62 pages: the sum of the
// bytes is the file less the blank first line and the line feeds between pages.
func TestSharedWikitext(t *testing.T) {
	tasks, err := Open([]string{"wikitext"}, Data{Dir: filepath.Join(shared.Dir(t), "data")})
	if err != nil {
		t.Fatal(err)
	}
	docs := tasks[0].Docs
	if d := docs[55]; d.Words != 911 || d.Bytes != 4757 {
		t.Errorf("page 55 has %d words and %d bytes", d.Words, d.Bytes)
	}
	bytes := 0
	for _, d := range docs {
		bytes += d.Bytes
	}
	if want := 1290590 - len(" \n") - 61; bytes != want {
		t.Errorf("the pages have %d bytes, want %d", bytes, want)
	}
	if tasks[0].Kind != eval.Rolling || docs[0].Line != 2 {
		t.Errorf("the first page begins at line %d", docs[0].Line)
	}
}
