package card

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/eval"
)

// Markdown is the card: front matter and body.
func (card *Card) Markdown() ([]byte, error) {
	head, err := card.front()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.Write(head)
	fmt.Fprintf(&b, "\n# Model Card for %s\n\n", card.Name)
	card.summary(&b)
	for _, section := range []struct {
		title string
		write func(*strings.Builder)
	}{
		{"Model Details", card.details},
		{"Performance on Standard Benchmarks", card.performance},
		{"Key Findings", card.keyFindings},
		{"Limitations", card.limitations},
		{"Implementation Details", card.implementation},
		{"How to Load It", card.loading},
		{"How to Reproduce It", card.reproduction},
		{"License", card.licenceSection},
		{"Acknowledgments", card.acknowledgments},
	} {
		fmt.Fprintf(&b, "## %s\n\n", section.title)
		section.write(&b)
	}
	return []byte(strings.TrimRight(b.String(), "\n") + "\n"), nil
}

// parameters are those of the dense model and of the pruned one.
func (card *Card) parameters() (before, after int64) {
	_, before = card.Dense.Parameters()
	_, after = card.Spec.Parameters()
	return before, after
}

func (card *Card) baseLink() string {
	return fmt.Sprintf("[%s](https://huggingface.co/%s)", card.Base.Name, card.Base.Name)
}

func (card *Card) summary(b *strings.Builder) {
	before, after := card.parameters()
	if d := llamaDuties[card.Licence.ID]; d.banner != "" {
		fmt.Fprintf(b, "**%s**\n\n", d.banner)
	}
	fmt.Fprintf(b, "This model is a pruned version of %s: %.1f %% of the neurons of its MLPs are removed, and with them %.1f %% of its parameters. ",
		card.baseLink(), 100*card.removed(), 100*(1-float64(after)/float64(before)))
	switch {
	case card.dense == nil:
		b.WriteString("What the original model reaches was not measured with it, so this card does not say what pruning cost.")
	case card.has(broken):
		b.WriteString("It is not meant to be used as it is: on some benchmarks below little or nothing is left of what the original model can do. It is a starting point for fine-tuning.")
	case card.has(lost):
		b.WriteString("It does worse than the original model on benchmarks below; fine-tune it for what you need before you rely on it.")
	default:
		b.WriteString("No benchmark below shows a loss; that says nothing about what was not measured.")
	}
	b.WriteString("\n\n")
}

func (card *Card) details(b *strings.Builder) {
	s := &card.Spec
	before, after := card.parameters()
	item := func(name, format string, args ...any) {
		fmt.Fprintf(b, "- **%s:** %s\n", name, fmt.Sprintf(format, args...))
	}
	item("Model Type", "pruned `%s`, a language model with gated MLPs", s.Family.ModelType)
	revision := ""
	if card.Base.Revision != "" {
		revision = " at revision `" + escape(card.Base.Revision) + "`"
	}
	item("Original Model", "%s%s", card.baseLink(), revision)
	item("Pruning Method", "%s", card.methodPhrase())
	item("Size Reduction", "%.1f %% (from %s to %s parameters)", 100*(1-float64(after)/float64(before)), short(before), short(after))
	heads := ""
	if s.Attention != nil {
		heads = "up to "
	}
	item("Architecture", "`%s`, %d layers, hidden size %s, %s%d/%d heads of %d, vocabulary %s%s; %s", s.Architecture(), s.Layers, count(int64(s.Hidden)), heads, s.Heads, s.KVHeads, s.HeadDim, count(int64(s.Vocab)), card.context(), card.widthsPhrase())
	item("Weights", "%s, %s", card.Stored, bytesText(card.Bytes))
	if len(card.Languages) > 0 {
		item("Language(s)", "%s", strings.Join(card.Languages, ", "))
	} else {
		item("Language(s)", "those of the original model")
	}
	if card.Licence.ID != "" {
		item("License", "%s, as the original model", card.Licence.String())
	} else {
		item("License", "that of the original model")
	}
	if card.Author != "" {
		item("Developed by", "%s", escape(card.Author))
	}
	item("Pruned with", "[Coppice](%s)", homepage)

	b.WriteString("\n### Parameters\n\n")
	rows := [][]string{{"Role", "Original", "Pruned", "Change"}}
	was, _ := card.Dense.Parameters()
	is, _ := s.Parameters()
	for role := range arch.NumRoles {
		if was[role] > 0 || is[role] > 0 {
			rows = append(rows, []string{role.String(), count(was[role]), count(is[role]), change(was[role], is[role])})
		}
	}
	rows = append(rows, []string{"**all**", count(before), count(after), change(before, after)})
	b.WriteString(table(rows))
	if s.Tied {
		b.WriteString("\nThe head is the embedding and counts once.\n")
	}
	b.WriteString("\n")
	card.widths(b)
}

func (card *Card) context() string {
	if card.Spec.MaxPositions == 0 {
		return ""
	}
	return ", context " + count(int64(card.Spec.MaxPositions))
}

// widthsPhrase is the widths in a few words.
func (card *Card) widthsPhrase() string {
	w, d := card.Spec.Widths, card.Dense.Widths
	was := count(int64(slices.Max(d)))
	if least, most := slices.Min(w), slices.Max(w); least != most {
		return fmt.Sprintf("intermediate_size differs by layer, %s to %s (was %s)", count(int64(least)), count(int64(most)), was)
	}
	return fmt.Sprintf("intermediate_size %s in all layers (was %s), an expansion ratio of %.3f (was %.3f)", count(int64(w[0])), was,
		float64(w[0])/float64(card.Spec.Hidden), float64(slices.Max(d))/float64(card.Spec.Hidden))
}

// widths writes the width of each layer, where they differ.
func (card *Card) widths(b *strings.Builder) {
	w := card.Spec.Widths
	if slices.Min(w) == slices.Max(w) {
		return
	}
	const perRow = 10
	fmt.Fprintf(b, "### Widths\n\nNeurons of each layer's MLP, by layer:\n\n")
	head := []string{""}
	for i := range min(perRow, len(w)) {
		head = append(head, fmt.Sprintf("+%d", i))
	}
	rows := [][]string{head}
	for i := 0; i < len(w); i += perRow {
		r := []string{fmt.Sprintf("**%d**", i)}
		for _, x := range w[i:min(i+perRow, len(w))] {
			r = append(r, count(int64(x)))
		}
		for len(r) < len(head) {
			r = append(r, "")
		}
		rows = append(rows, r)
	}
	b.WriteString(table(rows) + "\n")
}

// performance writes the table of what was measured, before and after.
func (card *Card) performance(b *strings.Builder) {
	head := []string{"Benchmark", "Metric", "Original Model", "Pruned Model", "Change", "Relative Change", "p", "Chance", "Majority", "Records"}
	if card.dense == nil {
		head = []string{"Benchmark", "Metric", "Pruned Model", "Chance", "Majority", "Records"}
	}
	rows := [][]string{head}
	for i := range card.rows {
		rows = append(rows, card.line(&card.rows[i]))
	}
	b.WriteString(table(rows) + "\n")
	b.WriteString("Values with standard errors. **Chance** is what guessing at random gives, **Majority** what always giving the most frequent right answer gives; an accuracy below it is no sign of reading. ")
	if card.dense != nil {
		b.WriteString("**p** is of a paired test of the pruned model against the original one over the same records (McNemar's exact test for accuracies, a paired bootstrap for perplexities). Both columns were measured by Coppice in the same way")
	} else {
		b.WriteString("Measured by Coppice")
	}
	r := card.pruned
	fmt.Fprintf(b, ": zero-shot, the definitions of lm-eval 0.4.13, computed in %s, `--bos %s`, at most %s tokens.", r.Model.DType, r.BOS, count(int64(r.MaxLength)))
	if r.Model.DType == "bf16" {
		b.WriteString(" bfloat16 rounds activations, so values differ a little from those in float32.")
	}
	b.WriteString("\n\n")
	card.conditions(b)
	card.answers(b)
}

// line is a row of the table of values.
func (card *Card) line(r *row) []string {
	name := escape(title(r.Task))
	if r.member {
		name = "&nbsp;&nbsp;" + name
	}
	cell := func(p *float64) string {
		if p == nil {
			return ""
		}
		return percent(*p)
	}
	line := []string{name, metricTitle(r.Metric)}
	if card.dense != nil {
		line = append(line, "not measured")
		if r.dense != nil {
			line[2] = valueError(r.Metric, r.dense.Metric)
		}
	}
	line = append(line, valueError(r.Metric, r.pruned.Metric))
	if card.dense != nil {
		line = append(line, r.changes()...)
	}
	records := count(int64(r.pruned.Records))
	return append(line, cell(r.Chance), cell(r.Majority), records)
}

// changes are the columns Change, Relative Change and p.
func (r *row) changes() []string {
	by, relative, p := "", "", ""
	if c := r.pruned.Change; c != nil {
		switch {
		case eval.HigherIsBetter(r.Metric):
			by = fmt.Sprintf("%+.2f points", 100**c)
		case *c < 0:
			by = "-" + digits(-*c, 3)
		default:
			by = "+" + digits(*c, 3)
		}
	}
	if c := r.pruned.Relative; c != nil {
		relative = fmt.Sprintf("%+.1f %%", 100**c)
		if *c >= brokenFactor {
			relative = "× " + digits(1+*c, 3)
		}
	}
	if t := r.pruned.Test; t != nil {
		p = strings.TrimPrefix(pText(t.P), "= ")
	}
	return []string{by, relative, p}
}

// conditions says where the two columns were not measured alike.
func (card *Card) conditions(b *strings.Builder) {
	if card.dense == nil {
		return
	}
	for _, c := range []struct{ what, dense, pruned string }{
		{"in", card.dense.Model.DType, card.pruned.Model.DType},
		{"with --bos", string(card.dense.BOS), string(card.pruned.BOS)},
		{"with a maximum length of", fmt.Sprint(card.dense.MaxLength), fmt.Sprint(card.pruned.MaxLength)},
	} {
		if c.dense != c.pruned {
			fmt.Fprintf(b, "**The columns are not alike:** the original model was run %s %s, the pruned one %s %s.\n\n", c.what, c.dense, c.what, c.pruned)
		}
	}
}

// answers writes how often each answer was given, for benchmarks whose records share their
// answers.
func (card *Card) answers(b *strings.Builder) {
	rows := [][]string{{"Benchmark", "Right answers", "Original Model answers", "Pruned Model answers"}}
	rates := func(answers []eval.AnswerRate, of func(eval.AnswerRate) float64) string {
		var words []string
		for _, a := range answers {
			words = append(words, fmt.Sprintf("%s %.1f %%", escape(a.Name), 100*of(a)))
		}
		return strings.Join(words, ", ")
	}
	gold := func(a eval.AnswerRate) float64 { return a.Gold }
	chosen := func(a eval.AnswerRate) float64 { return a.Chosen }
	for i := range card.rows {
		r := &card.rows[i]
		if len(r.pruned.Answers) == 0 {
			continue
		}
		was := "not measured"
		if r.dense != nil {
			was = rates(r.dense.Answers, chosen)
		}
		rows = append(rows, []string{escape(title(r.Task)), rates(r.pruned.Answers, gold), was, rates(r.pruned.Answers, chosen)})
	}
	if card.dense == nil {
		for i, r := range rows {
			rows[i] = slices.Delete(r, 2, 3)
		}
	}
	if len(rows) > 1 {
		b.WriteString("How often each answer was right, and how often it was given:\n\n" + table(rows) + "\n")
	}
}

// keyFindings writes what the table means, the worst first.
func (card *Card) keyFindings(b *strings.Builder) {
	last := verdict(-1)
	for _, f := range card.findings {
		if f.verdict != last {
			if last >= 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(b, "### %s\n\n", verdictTitles[f.verdict])
			last = f.verdict
		}
		fmt.Fprintf(b, "- %s\n", f.text)
	}
	b.WriteString("\n")
}
