package card

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// scoring is a method of scores in a phrase, in a sentence, and where it comes from. The
// formulas are those of package score.
type scoring struct{ phrase, sentence, source string }

var scorings = map[score.Method]scoring{
	score.MaxAbs: {
		"importance scores of absolute maximum weights", "the largest weight of its row of gate_proj plus the absolute value of the smallest, and the same of its row of up_proj added: weights alone, no text",
		"the published recipe of pruned Llama-3.2 models ([arXiv 2512.22671](https://arxiv.org/abs/2512.22671))",
	},
	score.Variance: {"importance scores of the variance of weights", "the variance of its row of gate_proj plus that of its row of up_proj: weights alone, no text", ""},
	score.Product:  {"importance scores of the product of norms", "the sum of absolute weights of its row of gate_proj, times that of its row of up_proj: weights alone, no text", ""},
	score.L2:       {"importance scores of the norms of weights", "the Euclidean norm of its row of gate_proj plus that of its row of up_proj: weights alone, no text", ""},
	score.Random:   {"random scores, as a control", "a random number: a control for other methods, not a recipe", ""},
	score.Activation: {
		"importance scores of activations and weights", "the root mean square of its activation on a calibration text, times the norm of its column of down_proj",
		"Wanda, summed over outputs ([arXiv 2306.11695](https://arxiv.org/abs/2306.11695))",
	},
	score.Fluctuation: {
		"importance scores of the fluctuation of activations", "the variance of its activation on a calibration text, times the squared norm of its column of down_proj",
		"FLAP ([arXiv 2312.11983](https://arxiv.org/abs/2312.11983))",
	},
	score.Leverage: {
		"ridge leverage scores of activations", "how little the other neurons' activations on a calibration text can stand in for its own (its ridge leverage)",
		"MoDeGPT ([arXiv 2408.09632](https://arxiv.org/abs/2408.09632))",
	},
	score.OBS: {
		"an order of removal by what the other neurons can make up for (optimal brain surgeon)", "its place in an order of removal: one neuron after another went, each time the one whose loss on a calibration text the remaining ones could make up for best",
		"SlimGPT ([arXiv 2412.18110](https://arxiv.org/abs/2412.18110))",
	},
}

// refits say what was done to the weights that stayed.
var refits = map[plan.RefitMethod]string{
	plan.LeastSquares: "Then down_proj of each pruned layer was refitted by least squares with a ridge, so that on the calibration text the remaining neurons give the output of all of them as nearly as they can. The ridge was chosen on a part of the text held back from the fit.",
	plan.Bias:         "Then what the removed neurons contribute on average on the calibration text was added to each pruned layer as a bias of down_proj.",
	plan.Propagated:   "Then the layers were refitted one after another on what reaches them in the pruned model, so that later layers make up for the errors of earlier ones.",
}

// methodPhrase is the method in a line.
func (card *Card) methodPhrase() string {
	p := card.Plan
	s := "structured pruning of whole MLP neurons"
	if m, ok := scorings[p.Method]; ok {
		s += " by " + m.phrase + " (`" + string(p.Method) + "`)"
	}
	if p.Refit != nil {
		s += fmt.Sprintf(", remaining weights refitted (`%s`)", p.Refit.Method)
	}
	return s
}

// method writes how the model was made.
func (card *Card) method(b *strings.Builder) {
	p := card.Plan
	b.WriteString("A neuron of a gated MLP is a row of gate_proj, the same row of up_proj and a column of down_proj; it goes or stays whole, so that what remains is a smaller dense model of the same architecture.\n\n")
	if m, ok := scorings[p.Method]; ok {
		fmt.Fprintf(b, "- **Selection criterion:** each neuron's score is %s. Within a layer the neurons with the lowest scores went.", m.sentence)
		if p.Method == score.Random {
			fmt.Fprintf(b, " Seed %d.", p.Seed)
		}
		b.WriteString("\n")
		if m.source != "" {
			fmt.Fprintf(b, "- **Recipe:** %s.\n", m.source)
		}
	}
	fmt.Fprintf(b, "- **Pruning ratio:** %s\n", card.ratioSentence())
	if n := len(p.Layers) - len(p.Kept()); n > 0 {
		fmt.Fprintf(b, "- **Layers dropped whole:** %d of %d (%s).\n", n, len(p.Layers), numbers(p.Rule.Drop))
	}
	var attention, mlps []int
	heads := 0
	for _, l := range p.Kept() {
		has := card.Dense.AttentionAt(l.Layer)
		switch left := l.Attention(has); {
		case left.Queries == 0 && has.Queries > 0:
			attention = append(attention, l.Layer)
		default:
			heads += has.KV - left.KV
		}
		if l.Width == 0 && card.Dense.Widths[l.Layer] > 0 {
			mlps = append(mlps, l.Layer)
		}
	}
	if len(attention) > 0 {
		fmt.Fprintf(b, "- **Attention dropped:** in %d of %d layers (%s).\n", len(attention), len(p.Layers), numbers(attention))
	}
	if heads > 0 {
		fmt.Fprintf(b, "- **Heads dropped:** %d key-value heads, with the query heads that shared them.\n", heads)
	}
	if len(mlps) > 0 {
		fmt.Fprintf(b, "- **MLPs dropped whole:** in %d of %d layers (%s).\n", len(mlps), len(p.Layers), numbers(mlps))
	}
	if a := p.Allocation; a != nil {
		fmt.Fprintf(b, "- **Widths:** shared out among the layers so that the sum of the layers' errors (`%s`) is least, with as many parameters as `%s` gives.\n", a.Curve, strings.TrimSpace(a.Budget.String()))
	}
	if p.Refit != nil {
		how, what := string(p.Refit.Method), refits[p.Refit.Method]
		if card.stepped() {
			how, what = how+"`, target `"+string(p.Refit.Target), "Then gate_proj, up_proj and down_proj of all pruned layers were refitted together: damped Gauss-Newton steps on a calibration text towards what the base model predicts there, judged on a part of the text held back from them."
			if l := p.Refit.Labels; l > 0 {
				what += fmt.Sprintf(" Of that target %.3g %% is the text's own next token (labels), where no model wrote the text.", 100*l)
			}
		}
		fmt.Fprintf(b, "- **Refit:** `%s`. %s\n", how, what)
	} else {
		b.WriteString("- **Refit:** none; the weights that stay are those of the base model, bit for bit but for a change of element type.\n")
	}
	card.calibration(b)
	if n := card.zeros(); n > 0 {
		fmt.Fprintf(b, "- **Padding:** %s of the neurons are zeros that compute nothing; they fill widths up to what the form or the alignment asks for.\n", count(int64(n)))
	}
	training := "none by Coppice"
	if card.stepped() {
		training = "none by Coppice but for the steps of the refit"
		if p.Refit.Labels > 0 {
			training += ", which saw labels"
		}
	}
	fmt.Fprintf(b, "- **Training:** %s; the figures of this card are of the weights `%s`.\n", training, card.Weights)
}

// stepped reports whether the weights were refitted to what the base model predicts.
func (card *Card) stepped() bool {
	return card.Plan.Refit != nil && card.Plan.Refit.Target == plan.PredictionsTarget
}

func (card *Card) calibration(b *strings.Builder) {
	p := card.Plan
	if c := p.Calibration; c != nil {
		fmt.Fprintf(b, "- **Calibration:** %s tokens; text `%s`, statistics `%s`.", count(c.Tokens), c.Text, c.Stats)
	} else if p.Refit != nil {
		fmt.Fprintf(b, "- **Calibration:** statistics `%s`.", p.Refit.Stats)
	} else {
		return
	}
	if len(card.Datasets) > 0 {
		fmt.Fprintf(b, " From %s.", list(links(card.Datasets, "https://huggingface.co/datasets/")))
	}
	b.WriteString("\n")
}

// ratioSentence says how much went.
func (card *Card) ratioSentence() string {
	p := card.Plan
	least, most := card.keptRange()
	s := fmt.Sprintf("%.1f %% of all MLP neurons removed: of ", 100*card.removed())
	if !card.Dense.Uniform() {
		s += "up to "
	}
	if least == most {
		return s + fmt.Sprintf("%s in each layer, %s stay.", count(int64(p.Intermediate)), count(int64(least)))
	}
	return s + fmt.Sprintf("%s in each layer, between %s and %s stay.", count(int64(p.Intermediate)), count(int64(least)), count(int64(most)))
}

func (card *Card) keptRange() (least, most int) {
	var kept []int
	for _, l := range card.Plan.Kept() {
		kept = append(kept, len(l.Keep))
	}
	return slices.Min(kept), slices.Max(kept)
}

// zeros is how many neurons pad the layers.
func (card *Card) zeros() int {
	n := 0
	for _, l := range card.Plan.Kept() {
		n += l.Width - len(l.Keep)
	}
	return n
}

// numbers is a list of numbers for people.
func numbers(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}

// links are names as links to the hub.
func links(names []string, prefix string) []string {
	var all []string
	for _, n := range names {
		all = append(all, fmt.Sprintf("[%s](%s%s)", n, prefix, n))
	}
	return all
}
