package card

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/score"
)

// limitations writes what the model cannot do, as measured, and what was not measured.
func (card *Card) limitations(b *strings.Builder) {
	item := func(format string, args ...any) { fmt.Fprintf(b, "- "+format+"\n", args...) }
	if names := card.tasksOf(broken); len(names) > 0 {
		item("**Not usable as it is** for what %s %s: see Key Findings. Fine-tune it first, and measure again.", list(names), plural(len(names), "measures", "measure"))
	}
	if names := card.tasksOf(silent); len(names) > 0 {
		item("**%s** cannot show what pruning cost: the original model is no better than guessing there.", list(names))
	}
	if card.dense == nil {
		item("**No baseline:** the original model was not measured in the same way, so nothing here says what was lost.")
	}
	partial := 0
	for _, t := range card.pruned.Tasks {
		if t.Evaluated < t.Records {
			partial++
		}
	}
	if partial > 0 {
		item("**A part of the records:** %d of %d benchmarks were asked a part of their records; their standard errors say how much that leaves open.", partial, len(card.pruned.Tasks))
	}
	for _, t := range card.pruned.Tasks {
		if t.Truncated > 0 {
			item("**%s:** %s requests were longer than %s tokens and lost %s tokens from the left.", escape(title(t.Name)), count(int64(t.Truncated)), count(int64(card.pruned.MaxLength)), count(int64(t.TruncatedTokens)))
		}
	}
	if card.Plan.Calibration != nil || card.Plan.Refit != nil {
		item("**One calibration text:** what stays was chosen by what the neurons do on it; on text of another kind or language the loss may be larger.")
	} else if card.Plan.Method == score.Random {
		item("**A control:** its neurons were chosen at random.")
	}
	item("**One run:** one pruned model with one seed; the standard errors are over records, not over ways to prune.")
	item("**Not measured:** instruction following, chat, long contexts, other languages than the benchmarks', bias and safety. What limits the original model limits this one; pruning can also weaken what it was trained to refuse.")
	b.WriteString("\n")
}

// tasksOf lists the benchmarks with a verdict.
func (card *Card) tasksOf(v verdict) []string {
	var names []string
	for _, f := range card.findings {
		if f.verdict == v {
			name, _, _ := strings.Cut(strings.TrimPrefix(f.text, "**"), "**")
			names = append(names, name)
		}
	}
	return names
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func (card *Card) implementation(b *strings.Builder) {
	b.WriteString("### Pruning Method\n\n")
	card.method(b)
	b.WriteString("\n### Hardware Requirements\n\n")
	card.hardware(b)
	card.energy(b)
}

// hardware writes the memory of the weights by element type, which follows from the
// shapes, and what was measured.
func (card *Card) hardware(b *strings.Builder) {
	before, after := card.parameters()
	rows := [][]string{{"Memory of the weights", "Original", "Pruned", "Change"}}
	for _, t := range []struct {
		name  string
		bytes int64
	}{{"float32", 4}, {"float16, bfloat16", 2}} {
		rows = append(rows, []string{t.name, bytesText(t.bytes * before), bytesText(t.bytes * after), change(before, after)})
	}
	b.WriteString(table(rows))
	kv := func(elements int64) string { return bytesText(2 * 1000 * elements) }
	fmt.Fprintf(b, "\nFollows from the shapes. The key-value cache, %s for 1,000 tokens in 16 bits, ", kv(card.Spec.KVElements()))
	if card.Spec.KVElements() == card.Dense.KVElements() {
		b.WriteString("is that of the original model: pruning neurons does not change it.\n\n")
	} else {
		fmt.Fprintf(b, "was %s.\n\n", kv(card.Dense.KVElements()))
	}
	card.measuredHardware(b)
}

// measuredHardware writes memory and speed, where they were measured.
func (card *Card) measuredHardware(b *strings.Builder) {
	if card.record != nil && card.record.Run != nil {
		card.speeds(b)
		return
	}
	peak := func(r *eval.Result) int64 {
		if r == nil {
			return 0
		}
		return r.Usage.PeakMemory
	}
	after := peak(card.pruned)
	if after == 0 {
		return
	}
	fmt.Fprintf(b, "Peak memory of the process that evaluated it with Coppice in %s: %s", card.pruned.Model.DType, bytesText(after))
	if before := peak(card.dense); before > 0 {
		fmt.Fprintf(b, " (original model: %s)", bytesText(before))
	}
	b.WriteString(".\n\n")
}

// speeds writes what a study measured of load time, memory and throughput.
func (card *Card) speeds(b *strings.Builder) {
	run := card.record.Run
	h := run.Host
	fmt.Fprintf(b, "Measured with Coppice on %s (%s/%s, %d threads, kernels %s):\n\n", escape(h.CPU), h.OS, h.Arch, h.Threads, h.Level)
	rows := [][]string{{"", "Original", "Pruned"}}
	add := func(name, before, after string) {
		switch {
		case after == "":
		case card.denseRecord == nil:
			rows = append(rows, []string{name, after})
		default:
			rows = append(rows, []string{name, orNone(before), after})
		}
	}
	var load, peak string
	was := map[string]string{}
	if card.denseRecord != nil && card.denseRecord.Run != nil && card.denseRecord.Run.Host == h {
		d := card.denseRecord.Run
		load, peak = seconds(d.LoadSeconds), sizeOrNone(d.PeakMemory)
		for _, s := range d.Speed {
			was[speedName(s.Kind, s.Context, s.Batch, s.DType)] = fmt.Sprintf("%s tokens/s", digits(s.TokensPS, 3))
		}
	}
	if card.denseRecord == nil {
		rows[0] = []string{"", "Pruned"}
	}
	add("Load time", load, seconds(run.LoadSeconds))
	add("Peak memory", peak, sizeOrNone(run.PeakMemory))
	for _, s := range run.Speed {
		name := speedName(s.Kind, s.Context, s.Batch, s.DType)
		add(name, was[name], fmt.Sprintf("%s tokens/s", digits(s.TokensPS, 3)))
	}
	b.WriteString(table(rows) + "\n")
}

func speedName(kind string, context, batch int, dtype string) string {
	return fmt.Sprintf("%s, context %s, batch %d, %s", upper(kind), count(int64(context)), batch, dtype)
}

func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f s", s)
}

func sizeOrNone(n int64) string {
	if n == 0 {
		return ""
	}
	return bytesText(n)
}

func orNone(s string) string {
	if s == "" {
		return "not measured"
	}
	return s
}

// energy writes what the evaluation drew, where a study looked for a meter.
func (card *Card) energy(b *strings.Builder) {
	if card.record == nil || card.record.Run == nil || card.record.Run.Energy == nil {
		return
	}
	e := card.record.Run.Energy
	b.WriteString("### Energy\n\n")
	if e.Joules == nil {
		fmt.Fprintf(b, "Not measured: %s.\n\n", escape(orWord(e.Absent, "no meter")))
		return
	}
	how := "Measured by " + e.Meter
	if e.Estimate {
		how = "An **estimate** from the processor's rated power, not a measurement"
	}
	fmt.Fprintf(b, "%s, over its evaluation: %s J with idle power", how, digits(*e.Joules, 3))
	if e.NetJoules != nil && e.IdleWatts != nil {
		fmt.Fprintf(b, ", %s J without (idle %.1f W)", digits(*e.NetJoules, 3), *e.IdleWatts)
	}
	if e.Tokens > 0 {
		fmt.Fprintf(b, "; %s J a token of input", digits(*e.Joules/float64(e.Tokens), 2))
	}
	b.WriteString(".")
	if e.GramsCO2e != nil && e.Grid != nil {
		fmt.Fprintf(b, " %s g CO2e at %v g/kWh, as stated by the user.", digits(*e.GramsCO2e, 3), *e.Grid)
	}
	b.WriteString("\n\n")
}

func orWord(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// licenceSection writes whose licence holds, and what it asks for.
func (card *Card) licenceSection(b *strings.Builder) {
	l := &card.Licence
	if l.ID == "" {
		fmt.Fprintf(b, "The license of %s holds for this model too; see its page.\n\n", card.baseLink())
		return
	}
	fmt.Fprintf(b, "The license of the original model, %s, holds for this model too.", l.String())
	if l.Link != "" {
		fmt.Fprintf(b, " Its text: %s.", escape(l.Link))
	}
	b.WriteString("\n\n")
	d := llamaDuties[l.ID]
	if d.notice == "" {
		return
	}
	fmt.Fprintf(b, "The %s asks of everyone who passes this model on:\n\n", d.licence)
	b.WriteString("- a copy of the license goes with it (file `LICENSE`);\n")
	fmt.Fprintf(b, "- a file `NOTICE` goes with it that says: \"%s\";\n", d.notice)
	if d.banner != "" {
		fmt.Fprintf(b, "- \"%s\" is shown prominently where it is used or described, as it is above;\n", d.banner)
		fmt.Fprintf(b, "- the name of a model made from it begins with \"%s\";\n", d.prefix)
	}
	fmt.Fprintf(b, "- its use keeps to the Acceptable Use Policy (%s).\n\n", d.policy)
}

func (card *Card) acknowledgments(b *strings.Builder) {
	fmt.Fprintf(b, "To the authors of %s. ", card.baseLink())
	if m := scorings[card.Plan.Method]; m.source != "" {
		fmt.Fprintf(b, "The selection follows %s. ", m.source)
	}
	if slices.ContainsFunc(card.pruned.Tasks, func(t eval.TaskResult) bool { return isBenchmark(&t) }) {
		b.WriteString("The benchmarks are defined as in EleutherAI's lm-evaluation-harness. ")
	}
	fmt.Fprintf(b, "This card was written by [Coppice](%s) out of its own measurements; it holds no number from elsewhere.\n", homepage)
}
