package card

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// commands are what makes the model and its numbers again. The files of texts and
// statistics are those of whoever types them; fingerprints hold them to the card's.
func (card *Card) commands() []string {
	all := []string{"hf download " + card.Base.Name + card.revisionFlag()}
	all = append(all, card.making()...)
	all = append(all, fmt.Sprintf("coppice verify %s --against %s%s", card.shortName(), card.base(), card.statsFlag()))
	return append(all, card.measuring()...)
}

func (card *Card) revisionFlag() string {
	if card.Base.Revision == "" {
		return ""
	}
	return " --revision " + card.Base.Revision
}

// base is the dense model as the verbs take it.
func (card *Card) base() string {
	if card.Base.Revision == "" {
		return card.Base.Name
	}
	return card.Base.Name + "@" + card.Base.Revision
}

func (card *Card) statsFlag() string {
	if card.Plan.Refit == nil {
		return ""
	}
	return " --stats stats.safetensors"
}

// making are the commands that lead to the checkpoint.
func (card *Card) making() []string {
	p, base, name := card.Plan, card.base(), card.shortName()
	apply := fmt.Sprintf("coppice apply %s --plan %s%s -o %s%s", base, checkpoint.PlanName, card.statsFlag(), name, card.dtypeFlag())
	switch {
	case p.Refit != nil && p.Refit.Method == plan.Propagated:
		return []string{apply + "    # the plan lies beside the weights; stats.safetensors are the weights that coppice refit wrote"}
	case p.Calibration == nil && p.Refit == nil:
		s := fmt.Sprintf("coppice prune %s -o %s", base, name)
		if p.Method != "" {
			s += " --method " + string(p.Method)
		}
		if p.Method == score.Random {
			s += fmt.Sprintf(" --seed %d", p.Seed)
		}
		return []string{s + " " + strings.TrimSpace(p.Rule.String()) + card.formFlag() + card.dtypeFlag()}
	}
	calib := fmt.Sprintf("coppice calib %s --calib TEXT -o stats.safetensors", base)
	if c := p.Calibration; c != nil {
		calib = fmt.Sprintf("coppice calib %s --calib TEXT --tokens %d -o stats.safetensors", base, c.Tokens)
	}
	if p.Refit == nil && p.Allocation == nil {
		return []string{calib, fmt.Sprintf("coppice prune %s -o %s --method %s --stats stats.safetensors %s%s%s", base, name, p.Method, strings.TrimSpace(p.Rule.String()), card.formFlag(), card.dtypeFlag())}
	}
	return []string{calib, apply + "    # the plan lies beside the weights"}
}

func (card *Card) formFlag() string {
	if card.Plan.Form == "" {
		return ""
	}
	return " --form " + string(card.Plan.Form)
}

func (card *Card) dtypeFlag() string {
	if slices.Contains([]string{"f32", "f16", "bf16"}, card.Stored) {
		return " --dtype " + card.Stored
	}
	return ""
}

// areFirst reports whether the records that a task asked are the first of its file.
func areFirst(t *eval.TaskResult) bool {
	return len(t.Samples) == t.Evaluated && !slices.ContainsFunc(t.Samples, func(s eval.Sample) bool { return s.DocID >= t.Evaluated })
}

// measuring are the commands that measure the model, one for all tasks of which as many
// records were asked.
func (card *Card) measuring() []string {
	r := card.pruned
	type set struct {
		limit, picked int
		names         []string
	}
	var sets []set
	var all []string
	tail := card.conditionFlags()
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.Kind == eval.Text {
			all = append(all, fmt.Sprintf("coppice eval %s --text %s --ctx %d%s", card.shortName(), shellWord(t.Source), t.Window, tail))
			continue
		}
		limit, picked := card.limits[t.Name], 0
		if limit == 0 && t.Evaluated < t.Records {
			if areFirst(t) {
				limit = t.Evaluated
			} else {
				picked = t.Evaluated
			}
		}
		if limit >= t.Records {
			limit = 0
		}
		name := t.Name
		if slices.ContainsFunc(r.Groups, func(g eval.GroupResult) bool { return g.Name == t.Group }) {
			name = t.Group
		}
		k := slices.IndexFunc(sets, func(s set) bool { return s.limit == limit && s.picked == picked })
		if k < 0 {
			sets = append(sets, set{limit, picked, nil})
			k = len(sets) - 1
		}
		if !slices.Contains(sets[k].names, name) {
			sets[k].names = append(sets[k].names, name)
		}
	}
	for _, s := range sets {
		var known, own []string
		for _, n := range s.names {
			if _, err := tasks.Find(n); err == nil {
				known = append(known, n)
			} else {
				own = append(own, n)
			}
		}
		command := "coppice eval " + card.shortName()
		if len(known) > 0 {
			command += " --tasks " + strings.Join(known, ",") + " --data-dir DATA"
		}
		if len(own) > 0 {
			command += " --task-file TASKS.yaml"
		}
		if s.limit > 0 {
			command += fmt.Sprintf(" --limit %d", s.limit)
		}
		command += tail
		if s.picked > 0 {
			command += fmt.Sprintf("    # of %d records, picked by --samples", s.picked)
		}
		all = append(all, command)
	}
	return all
}

// conditionFlags are the flags of eval that hold for all tasks.
func (card *Card) conditionFlags() string {
	r := card.pruned
	s := ""
	if r.Model.DType != "" {
		s += " --dtype " + r.Model.DType
	}
	if r.BOS != "" && r.BOS != eval.BOSTokenizer {
		s += " --bos " + string(r.BOS)
	}
	if r.MaxLength != card.Spec.MaxPositions && r.MaxLength > 0 {
		s += fmt.Sprintf(" --max-length %d", r.MaxLength)
	}
	if card.dense != nil {
		s += " --baseline " + card.base()
	}
	return s
}

// reproduction writes commands and fingerprints.
func (card *Card) reproduction(b *strings.Builder) {
	p := card.Plan
	fmt.Fprintf(b, "`%s` beside the weights holds every decision. It was made for weights with the fingerprint `%s`; on others, such as the same model in another element type, `coppice apply` stops and `coppice prune` decides anew.", checkpoint.PlanName, p.Model)
	if card.BaseChecked {
		fmt.Fprintf(b, " That %s is those weights was checked.\n\n", card.baseLink())
	} else {
		fmt.Fprintf(b, " That %s is those weights was said by who made this card, and not checked.\n\n", card.baseLink())
	}
	fmt.Fprintf(b, "```\n%s\n```\n\n", strings.Join(card.commands(), "\n"))
	if p.Calibration != nil || p.Refit != nil {
		b.WriteString("TEXT is the calibration text; with it, and its rows cut in the same way, the statistics have the fingerprint given above. ")
	}
	if slices.ContainsFunc(card.pruned.Tasks, func(t eval.TaskResult) bool { return isBenchmark(&t) }) {
		b.WriteString("DATA holds a directory of records for each benchmark. ")
	}
	b.WriteString("What was asked, with the fingerprints that the front matter has as revisions:\n\n")
	rows := [][]string{{"Benchmark", "File", "Records asked", "Fingerprint"}}
	for i := range card.pruned.Tasks {
		t := &card.pruned.Tasks[i]
		asked := count(int64(t.Evaluated))
		if t.Evaluated < t.Records {
			asked += " of " + count(int64(t.Records))
		}
		rows = append(rows, []string{escape(title(t.Name)), code(t.Source), asked, code(t.Fingerprint)})
	}
	b.WriteString(table(rows))
	fmt.Fprintf(b, "\nThe weights measured: `%s`", card.Weights)
	if card.dense != nil {
		fmt.Fprintf(b, "; of the original model: `%s`", card.dense.Model.Weights)
	}
	b.WriteString(".")
	if card.record != nil {
		fmt.Fprintf(b, " Cell `%s` of the study.", card.record.Cell.ID)
	}
	b.WriteString("\n\n")
}
