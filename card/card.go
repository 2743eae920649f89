package card

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/export"
	"github.com/coppice-lm/coppice/internal/frontmatter"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
)

// Sources are the files that a card is made of.
type Sources struct {
	Dir      string   // the pruned model, with the plan that made it
	Results  []string // of coppice eval, of the pruned model; or else Ledger
	Baseline []string // likewise, of the dense model; may be empty
	Ledger   string   // of a study
	Cell     string   // of the ledger; empty: the one whose weights are the model's
	Dense    string   // the dense model itself, where it is at hand; may be empty
	Threads  int
}

// Card is all that is said of a model.
type Card struct {
	Name string // owner/NAME where the owner is known
	Base Base
	// BaseChecked says that the dense model of that name was at hand and is the plan's.
	BaseChecked bool
	Licence     Licence
	Languages   []string
	Datasets    []string
	Author      string

	Plan       *plan.Plan
	Spec       arch.Spec // of the pruned model
	Dense      arch.Spec // of the model it was made from
	Stored     string    // element type of the weights, "f16", or "mixed"
	Bytes      int64     // of the weights as stored
	Weights    string    // digest, as results name it
	Notice     bool      // the model has a file NOTICE
	LicenceDoc bool      // and one of the licence's text
	GGUF       ggufForm

	Notes []string // what the user should be told

	measured
	from     provenance // of the dense model, where it is at hand
	rows     []row
	findings []finding
}

// Build reads the sources and decides what the card says. Errors name the file and the
// next step; results of other weights are a *ForeignError.
func Build(ctx context.Context, src Sources, says Says) (*Card, error) {
	if err := says.Check(); err != nil {
		return nil, err
	}
	c, err := checkpoint.Open(src.Dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.RequireWidths(); err != nil {
		return nil, err
	}
	card := &Card{Spec: c.Spec, Stored: storedType(c), Bytes: c.Bytes(), Notes: slices.Clone(c.Notes)}
	if card.Plan, err = readPlan(src.Dir, &c.Spec); err != nil {
		return nil, err
	}
	if card.Weights, err = lm.Identify(ctx, c, src.Threads); err != nil {
		return nil, err
	}
	if err := card.readRecords(&src); err != nil {
		return nil, err
	}
	if err := card.findDense(ctx, &src); err != nil {
		return nil, err
	}
	old, err := card.readExtra(c)
	if err != nil {
		return nil, err
	}
	if err := card.name(&says, old); err != nil {
		return nil, err
	}
	card.GGUF = ggufFormOf(c)
	card.judge()
	return card, nil
}

// storedType is the one element type of the weights.
func storedType(c *checkpoint.Checkpoint) string {
	types := map[string]bool{}
	last := ""
	for _, i := range c.Tensors() {
		last = strings.ToLower(i.DType.String())
		types[last] = true
	}
	if len(types) != 1 {
		return "mixed"
	}
	return last
}

func (card *Card) readRecords(src *Sources) error {
	var m *measured
	var err error
	switch {
	case len(src.Results) > 0:
		m, err = fromResults(src.Results, src.Baseline, card.Weights, src.Dir)
	case src.Ledger != "":
		if m, err = fromLedger(src.Ledger, src.Cell, card.Weights, src.Dir); err == nil {
			if f := m.record.Cell.ModelFingerprint; f != card.Plan.Model {
				err = fmt.Errorf("%s: cell %s was made from the model %s, the plan in %s from %s", src.Ledger, m.record.Cell.ID, f, src.Dir, card.Plan.Model)
			}
		}
	default:
		err = errNoRecords
	}
	if err != nil {
		return err
	}
	card.measured = *m
	card.Notes = append(card.Notes, m.notes...)
	if len(m.pruned.Tasks) == 0 {
		return fmt.Errorf("the records of %s hold no task", src.Dir)
	}
	return nil
}

// maxReadme bounds what is read of a README; the hub shows no more.
const maxReadme = 16 << 20

// readme is what the README says that lies there.
type readme struct {
	frontmatter.Front
	own bool // it is a card of this model, not one that came with the dense model
}

// readExtra reads what the model's other files say: the README that came with the dense
// model or was written before, and whether the licence's files are there. A card of this
// model names the model that its plan is for.
func (card *Card) readExtra(c *checkpoint.Checkpoint) (readme, error) {
	var old readme
	for _, f := range c.Extra() {
		switch name := strings.ToUpper(f.Name); {
		case name == "README.MD":
			b, err := f.Read(maxReadme)
			if err != nil {
				return old, err
			}
			old.own = bytes.Contains(b, []byte(card.Plan.Model))
			if old.Front, err = frontmatter.Parse(b); err != nil {
				card.Notes = append(card.Notes, fmt.Sprintf("%s: %v; what it says there is not taken over", f.Name, err))
			}
		case strings.HasPrefix(name, "LICENSE"), strings.HasPrefix(name, "LICENCE"):
			card.LicenceDoc = true
		case strings.HasPrefix(name, "NOTICE"):
			card.Notice = true
		}
	}
	return old, nil
}

// removed is the share of all MLP neurons that went.
func (card *Card) removed() float64 {
	kept, all := 0, 0
	for _, l := range card.Plan.Kept() {
		kept += len(l.Keep)
	}
	for _, w := range card.Dense.Widths {
		all += w
	}
	return 1 - float64(kept)/float64(all)
}

// ggufForm is as what a GGUF file export would write the model.
type ggufForm struct {
	Architecture string // empty: it would not
	Type         string // the smallest of a few types that its widths allow
	Reason       string // why it would not
}

// ggufFormOf asks export, so that the card never says more than it does.
func ggufFormOf(c *checkpoint.Checkpoint) ggufForm {
	var form ggufForm
	for _, name := range []string{"q8_0", "f16"} {
		mix, err := export.ParseMix(name)
		if err != nil {
			return ggufForm{Reason: err.Error()}
		}
		prog, err := export.Compile(c, export.Options{Mix: mix})
		if err == nil {
			return ggufForm{Architecture: prog.Architecture, Type: name}
		}
		form.Reason = strings.TrimPrefix(err.Error(), c.Path+": ")
	}
	return form
}

// row is one line of the table: what was measured of one metric.
type row struct {
	eval.Row
	dense, pruned *eval.Cell // dense is nil where it was not measured
	member        bool       // of a group, whose line stands before it
	majorityName  string     // the answer that is right most often
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
