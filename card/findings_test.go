package card

import (
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/eval"
)

// withAnswer makes a task's model give one answer to nearly all records.
func withAnswer(t eval.TaskResult, name string) eval.TaskResult {
	for i := range t.Guessing.Answers {
		t.Guessing.Answers[i].Chosen = 0.001
		if t.Guessing.Answers[i].Name == name {
			t.Guessing.Answers[i].Chosen = 0.999
		}
	}
	return t
}

// bare is a task without its records.
func bare(t eval.TaskResult) eval.TaskResult {
	t.Samples = nil
	return t
}

func TestFindings(t *testing.T) {
	acc := func(right int) eval.TaskResult { return accuracyTask("piqa", right, 200, 0.5, 0.51) }
	cloze := func(ppl, log float64, right int) eval.TaskResult {
		return clozeTask("lambada_openai", ppl, log, right, 100)
	}
	inf := cloze(1/zero(), 800, 0)
	for _, test := range []struct {
		name          string
		dense, pruned eval.TaskResult
		want          verdict
		text          string
	}{
		{"held", acc(150), acc(148), held, "74.00 %; the original model has 75.00 %, a difference that chance explains (p = 0.5 over 200 records)"},
		{"lost", acc(150), acc(130), lost, "60 % of its lead over chance is left (p < 0.0001)"},
		{"at chance", acc(150), acc(105), broken, "is not above chance (50.00 %) beyond its standard error"},
		{"little left", accuracyTask("piqa", 160, 200, 0.1, 0.12), accuracyTask("piqa", 31, 200, 0.1, 0.12), broken, "7.9 % of its lead over chance is left"},
		{"below the majority", accuracyTask("boolq", 180, 200, 0.5, 0.62), accuracyTask("boolq", 120, 200, 0.5, 0.62), broken, `below the 62.00 % of always answering "yes"`},
		{"one answer", accuracyTask("boolq", 180, 200, 0.5, 0.62), withAnswer(accuracyTask("boolq", 124, 200, 0.5, 0.62), "yes"), lost, `It answers "yes" in 99.90 % of the records; that is right in 62.00 %.`},
		{"gained", acc(130), acc(150), better, "75.00 %; the original model has 65.00 %"},
		{"dense guesses", accuracyTask("boolq", 100, 200, 0.5, 0.62), accuracyTask("boolq", 90, 200, 0.5, 0.62), silent, "and neither is the pruned one, so it does not tell what pruning cost"},
		{"only the dense guesses", accuracyTask("boolq", 100, 200, 0.5, 0.62), accuracyTask("boolq", 150, 200, 0.5, 0.62), silent, "beyond its standard error, so it does not tell"},
		{"perplexity decides", cloze(50, 3.9, 40), cloze(5000, 8.5, 38), broken, "Perplexity 5,000; the original model has 50.00 (p < 0.0001): 99 times as high"},
		{"nothing left", cloze(50, 3.9, 40), cloze(60, 4.1, 0), broken, "0.00 % is not above zero beyond its standard error"},
		{"perplexity too large", cloze(50, 3.9, 40), inf, broken, "Perplexity e^800.0; the original model has 50.00 (p < 0.0001): "},
		{"a little", cloze(50, 3.9, 40), cloze(60, 4.1, 30), lost, "75 % of it is left (p = 0.002). Perplexity 60.00; the original model has 50.00 (p < 0.0001): 1.22 times as high."},
		{"nothing to lose", cloze(50, 3.9, 0), cloze(50, 3.9, 0), held, "which is not above zero beyond its standard error"},
		{"without records", bare(acc(150)), bare(acc(130)), alone, "share too few records for a test"},
		{"same", cloze(50, 3.9, 40), cloze(50, 3.9, 40), held, "a difference that chance explains (p = 1)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			card := &Card{}
			card.dense, card.pruned = result("d", 0, test.dense), result("p", 0, test.pruned)
			card.judge()
			if len(card.findings) != 1 {
				t.Fatalf("%d findings, want one", len(card.findings))
			}
			f := card.findings[0]
			if f.verdict != test.want || !strings.Contains(f.text, test.text) {
				t.Errorf("%s: %s\nwant %s: ...%s", verdictTitles[f.verdict], f.text, verdictTitles[test.want], test.text)
			}
		})
	}
}

// Members of a group have a line in the table, and the group alone a finding.
func TestFindingsOfGroups(t *testing.T) {
	member := func(name string, right int) eval.TaskResult {
		m := accuracyTask(name, right, 100, 0.3, 0.35)
		m.Group = "musr"
		return m
	}
	group := func(value float64) []eval.GroupResult {
		return []eval.GroupResult{{Name: "musr", Tasks: []string{"musr_murder_mysteries", "musr_team_allocation"}, Records: 200,
			Metrics: []eval.Metric{{Name: eval.Acc, Value: value, StdErr: 0.01}}, Chance: 0.3, Majority: 0.35}}
	}
	card := &Card{}
	card.dense = result("d", 0, member("musr_murder_mysteries", 60), member("musr_team_allocation", 60))
	card.pruned = result("p", 0, member("musr_murder_mysteries", 58), member("musr_team_allocation", 42))
	card.dense.Groups, card.pruned.Groups = group(0.6), group(0.5)
	card.judge()
	if len(card.rows) != 3 || card.rows[0].member || !card.rows[1].member || len(card.findings) != 1 {
		t.Errorf("%d rows and %d findings, want 3, the last two of members, and 1", len(card.rows), len(card.findings))
	}
	if got := card.tasksOf(lost); len(got) != 1 || got[0] != "MuSR" {
		t.Errorf("lost in part: %q, want MuSR", got)
	}
}
