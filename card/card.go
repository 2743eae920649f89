package card

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
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

// Says is what only a person can say, or says better. Empty fields are found in the
// README that the model has already, in the study, or where the dense model lies.
type Says struct {
	Name      string // of the model, NAME or owner/NAME
	Base      string // owner/name[@revision] of the dense model
	Licence   Licence
	Languages []string
	Datasets  []string // the hub's names of the calibration text
	Author    string
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
	denseBase Base // where the dense model lies, which was held against the plan
	rows      []row
	findings  []finding
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

// SaysError says that what a person said cannot stand, or is needed and missing.
type SaysError struct{ Err error }

func (e *SaysError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *SaysError) Unwrap() error { return e.Err }

func saysErrorf(format string, args ...any) error { return &SaysError{fmt.Errorf(format, args...)} }

// Check is a *SaysError if the hub would refuse something, whatever the model.
func (s *Says) Check() error {
	if s.Base != "" {
		if _, err := ParseBase(s.Base); err != nil {
			return saysErrorf("--base-model %w", err)
		}
	}
	if s.Name != "" && !hubName.MatchString("o/"+s.Name) && !hubName.MatchString(s.Name) {
		return saysErrorf("--name %q: expected NAME or owner/NAME of letters, digits, dots and dashes", s.Name)
	}
	for _, l := range s.Languages {
		if !languageCode.MatchString(l) {
			return saysErrorf("--language %q: expected a code of ISO 639 in small letters, such as en, or multilingual", l)
		}
	}
	for _, d := range s.Datasets {
		if _, err := ParseBase(d); err != nil {
			return saysErrorf("--dataset %w", err)
		}
	}
	if strings.ContainsAny(s.Author, "\n\r") {
		return saysErrorf("--author %q: expected one line", s.Author)
	}
	if err := s.Licence.Check(); err != nil {
		return saysErrorf("--license: %w", err)
	}
	return nil
}

var languageCode = regexp.MustCompile(`^([a-z]{2,3}|code|multilingual)$`)

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

// readPlan reads the plan that lies beside the weights, and holds it against them.
func readPlan(dir string, spec *arch.Spec) (*plan.Plan, error) {
	path := filepath.Join(dir, checkpoint.PlanName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: not there; a card is of a model that `coppice prune` or `coppice apply` wrote", path)
	}
	if err != nil {
		return nil, err
	}
	p, err := plan.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if p.Family != spec.Family.ModelType || p.Hidden != spec.Hidden || !slices.Equal(p.Widths(), spec.Widths) {
		return nil, fmt.Errorf("%s: the plan is of another model: it leaves %s with %d layers, hidden size %d and widths %v, the weights are %s with %d, %d and %v",
			path, p.Family, len(p.Kept()), p.Hidden, p.Widths(), spec.Family.ModelType, spec.Layers, spec.Hidden, spec.Widths)
	}
	return p, nil
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

// findDense finds the shape of the dense model, and that its results are of it. The plan
// names the dense model by a fingerprint that results do not have, so without the dense
// model itself they are held to its number of parameters and its tokenizer.
func (card *Card) findDense(ctx context.Context, src *Sources) error {
	shapes := card.denseShapes()
	card.Dense = shapes[0]
	if src.Dense != "" {
		return card.openDense(ctx, src)
	}
	if card.dense == nil {
		if len(shapes) > 1 {
			return fmt.Errorf("%s: the plan does not say whether the dense model had biases; name it with --baseline MODEL", src.Dir)
		}
		return nil
	}
	if a, b := card.dense.Model.Tokenizer, card.pruned.Model.Tokenizer; a != b {
		return fmt.Errorf("the results of the dense model (%s, tokenizer %s) and those of the pruned one (%s, tokenizer %s) are of different tokenizers", card.dense.Model.Name, a, card.pruned.Model.Name, b)
	}
	var counts []int64
	for _, s := range shapes {
		_, n := s.Parameters()
		if n == card.dense.Model.Parameters {
			card.Dense = s
			return nil
		}
		counts = append(counts, n)
	}
	return fmt.Errorf("the results of the dense model are of another one (%s, %d parameters) than the plan's (%s, %v parameters); name results of that one, or the model itself with --baseline MODEL",
		card.dense.Model.Name, card.dense.Model.Parameters, card.Plan.Model, counts)
}

// denseShapes are the shapes that the dense model can have had. A refit of biases adds
// them where there were none.
func (card *Card) denseShapes() []arch.Spec {
	p := card.Plan
	s := card.Spec.WithWidths(slices.Repeat([]int{p.Intermediate}, len(p.Layers)))
	s.Form = arch.Plain
	if p.Refit != nil && p.Refit.Method == plan.Bias && s.MLPBias {
		bare := s
		bare.MLPBias = false
		return []arch.Spec{bare, s}
	}
	return []arch.Spec{s}
}

// openDense holds plan and results against the dense model itself.
func (card *Card) openDense(ctx context.Context, src *Sources) error {
	c, err := checkpoint.Open(src.Dense)
	if err != nil {
		return err
	}
	defer c.Close()
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return err
	}
	if fingerprint != card.Plan.Model {
		return fmt.Errorf("%s was not made from %s: its plan is for the model %s, that one is %s", src.Dir, src.Dense, card.Plan.Model, fingerprint)
	}
	card.Dense = c.Spec
	card.denseBase, _ = baseOf(c.Path)
	if card.dense == nil {
		return nil
	}
	weights, err := lm.Identify(ctx, c, src.Threads)
	if err != nil {
		return err
	}
	if r := card.dense.Model; r.Weights != weights {
		return &ForeignError{"the baseline", r.Name, r.Weights, src.Dense, weights}
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

// name decides what model, base model, licence and languages are called. The base_model of
// a README that came with the dense model is what that was made from, and not it.
func (card *Card) name(says *Says, old readme) error {
	base, known := Base{}, false
	if says.Base != "" {
		base, _ = ParseBase(says.Base) // checked
		known = true
		if _, err := os.Stat(base.Name); err == nil {
			card.note("%s is also a path here; the card takes it for the name of a model on the hub", base.Name)
		}
	}
	if b := card.denseBase; b.Name != "" && (!known || b.Name == base.Name) {
		base, known, card.BaseChecked = b, true, true
	}
	if !known && card.record != nil {
		b, err := ParseBase(card.record.Cell.BaseModel)
		base, known = b, err == nil
	}
	if !known && old.own && len(old.BaseModels) == 1 {
		b, err := ParseBase(old.BaseModels[0])
		base, known = b, err == nil
	}
	if !known {
		return &SaysError{errNoBase}
	}
	card.Base, card.Author, card.Datasets = base, says.Author, says.Datasets
	if card.Licence = says.Licence; card.Licence.ID == "" {
		card.Licence = Licence{old.License, old.LicenseName, old.LicenseLink}
		if err := card.Licence.Check(); err != nil {
			return fmt.Errorf("README.md: %w; give the right one with --license", err)
		}
	}
	if card.Licence.ID == "" {
		card.note("the licence of the base model is not known, and the card has none; give it with --license")
	}
	if card.Languages = says.Languages; len(card.Languages) == 0 {
		for _, l := range old.Languages {
			if languageCode.MatchString(l) {
				card.Languages = append(card.Languages, l)
			} else {
				card.note("README.md: %q is no code of ISO 639 in small letters; the card leaves this language out", l)
			}
		}
	}
	if len(card.Languages) == 0 {
		card.note("the languages of the base model are not known, and the card names none; give them with --language")
	}
	if len(card.Datasets) > 0 && card.Plan.Calibration == nil && card.Plan.Refit == nil {
		return saysErrorf("--dataset %s: the plan uses no calibration text", card.Datasets[0])
	}
	return card.nameModel(says.Name)
}

// nameModel names the model as the user says, else after the base model and what was
// removed, as its licence allows.
func (card *Card) nameModel(name string) error {
	duty := llamaDuties[card.Licence.ID]
	if name == "" {
		_, base, _ := strings.Cut(card.Base.Name, "/")
		name = fmt.Sprintf("%s-pruned%.0f", base, 100*card.removed())
		if !duty.named(name) {
			name = strings.ReplaceAll(duty.prefix, " ", "-") + "-" + name
		}
	}
	card.Name = name
	if !duty.named(card.shortName()) {
		return saysErrorf("--name %s: the %s asks that the name of a model made from it begin with %q", name, duty.licence, duty.prefix)
	}
	if duty.notice != "" && !card.Notice {
		card.note("the %s asks for a file NOTICE with the text: %s", duty.licence, duty.notice)
	}
	if duty.notice != "" && !card.LicenceDoc {
		card.note("the %s asks that a copy of it go with the model; put it there as LICENSE", duty.licence)
	}
	return nil
}

// shortName is the model's name without its owner.
func (card *Card) shortName() string {
	return card.Name[strings.LastIndex(card.Name, "/")+1:]
}

func (card *Card) note(format string, args ...any) {
	card.Notes = append(card.Notes, fmt.Sprintf(format, args...))
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
