package study

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/score"
)

// Size says in words how much of the model stays: "60 %" of the neurons gone, "width 640",
// "expansion 1.5", or "" of a dense cell.
func (c *Cell) Size() string {
	switch {
	case c.Width != 0:
		return fmt.Sprintf("width %d", c.Width)
	case c.Expansion != 0:
		return "expansion " + strconv.FormatFloat(c.Expansion, 'g', -1, 64)
	case c.Ratio != 0:
		return strconv.FormatFloat(100*c.Ratio, 'g', 6, 64) + " %"
	}
	return ""
}

// String names the cell for people, as far as it differs from others of its study.
func (c *Cell) String() string {
	s := c.Model + " " + c.Method
	if size := c.Size(); size != "" {
		s += " " + size
	}
	if c.Allocation != "" && c.Allocation != uniform {
		s += " " + c.Allocation
	}
	if c.Seed != 0 {
		s += fmt.Sprintf(" seed %d", c.Seed)
	}
	return s + " " + c.DType
}

// Compare orders cells for tables and merged ledgers: by model, precision, and size from
// the largest to the smallest; the dense model comes first, and maxabs before the other
// methods of a size.
func (c *Cell) Compare(o *Cell) int {
	return cmp.Or(
		cmp.Compare(c.Model, o.Model),
		cmp.Compare(dtypeOrder(c.DType), dtypeOrder(o.DType)),
		cmp.Compare(methodOrder(c.Method)/2, methodOrder(o.Method)/2), // dense against all others
		cmp.Compare(c.Ratio, o.Ratio),
		cmp.Compare(o.Width, c.Width),
		cmp.Compare(o.Expansion, c.Expansion),
		cmp.Compare(methodOrder(c.Method), methodOrder(o.Method)),
		cmp.Compare(c.Method, o.Method),
		cmp.Compare(c.Allocation, o.Allocation),
		cmp.Compare(c.Seed, o.Seed),
		cmp.Compare(c.ID, o.ID),
	)
}

func dtypeOrder(dtype string) int {
	if dtype == "f32" {
		return 0
	}
	return 1
}

// methodOrder is 0 for dense, 2 for maxabs and 3 for others.
func methodOrder(method string) int {
	switch method {
	case Dense:
		return 0
	case maxAbs:
		return 2
	}
	return 3
}

// The names that studies give a meaning of their own.
const (
	maxAbs   = "maxabs" // the published recipe, which others are compared with
	uniform  = "uniform"
	global   = "global"
	measured = "measured"
)

// idVersion goes into every ID. It changes where a new release measures something else
// under the same name, so that older records are not taken for it.
const idVersion = 1

// best is the method that refits what obs keeps.
const best = "best"

// usesStats reports whether a cell of a method and an allocation needs statistics of
// activations.
func usesStats(method, allocation string) bool {
	return method == best || score.Method(method).Calibrated() || allocation == global || allocation == measured
}

// grid is a study with its cells in the order in which they are measured.
type grid struct {
	*Study
	inputs *inputs
	cells  []gridCell
}

// gridCell is a cell with the model it is of.
type gridCell struct {
	Cell
	model *modelInput
	place string // in the file
}

// newGrid opens a study's inputs and lists its cells: the dense models first, since others
// are compared with them, then for each model and size maxabs, for the same reason, and the
// other methods. Two cells of one ID are an error that names both.
func newGrid(s *Study) (*grid, error) {
	in, err := s.open()
	if err != nil {
		return nil, err
	}
	g := &grid{Study: s, inputs: in}
	for i := range in.models {
		for j, dtype := range s.DTypes {
			g.add(i, Cell{Method: Dense, DType: dtype}, fmt.Sprintf("dtypes[%d]", j))
		}
	}
	for i := range in.models {
		for _, size := range s.sizes() {
			g.addSize(i, size)
		}
	}
	seen := map[string]*gridCell{}
	for i := range g.cells {
		c := &g.cells[i]
		if o := seen[c.ID]; o != nil {
			return nil, fmt.Errorf("%s: two cells have the id %s, since everything that they are made of is the same: %v (%s) and %v (%s); remove one of them", s.path, c.ID, o, o.place, c, c.place)
		}
		seen[c.ID] = c
	}
	return g, nil
}

// Cells lists the cells of a study in the order in which they are measured. It reads the
// headers of the models and the records of the tasks.
func Cells(s *Study) ([]Cell, error) {
	g, err := newGrid(s)
	if err != nil {
		return nil, err
	}
	cells := make([]Cell, len(g.cells))
	for i := range cells {
		cells[i] = g.cells[i].Cell
	}
	return cells, nil
}

// size is one of the ratios, widths or expansions.
type size struct {
	Cell
	place string
}

func (s *Study) sizes() []size {
	var all []size
	for i, r := range s.Ratios {
		all = append(all, size{Cell{Ratio: r}, fmt.Sprintf("ratios[%d]", i)})
	}
	for i, w := range s.Widths {
		all = append(all, size{Cell{Width: w}, fmt.Sprintf("widths[%d]", i)})
	}
	for i, x := range s.Expansions {
		all = append(all, size{Cell{Expansion: x}, fmt.Sprintf("expansions[%d]", i)})
	}
	return all
}

// addSize adds the cells of a model and a size.
func (g *grid) addSize(model int, size size) {
	methods := make([]int, len(g.Methods))
	for i := range methods {
		methods[i] = i
	}
	slices.SortStableFunc(methods, func(a, b int) int { return methodOrder(g.Methods[a]) - methodOrder(g.Methods[b]) })
	for _, m := range methods {
		for _, allocation := range g.Allocation {
			seeds := g.Seeds
			if method := g.Methods[m]; method != string(score.Random) && !usesStats(method, allocation) {
				seeds = []uint64{0}
			}
			for k, seed := range seeds {
				for _, dtype := range g.DTypes {
					c := size.Cell
					c.Method, c.Allocation, c.Align, c.Seed, c.DType = g.Methods[m], allocation, g.Align, seed, dtype
					g.add(model, c, fmt.Sprintf("%s, methods[%d], seeds[%d]", size.place, m, k))
				}
			}
		}
	}
}

// add completes a cell and gives it its ID.
func (g *grid) add(model int, c Cell, place string) {
	in, m := g.inputs, &g.inputs.models[model]
	c.Model, c.BaseModel, c.ModelFingerprint, c.Data = m.Name, m.BaseModel, m.fingerprint, in.data
	if isHubRef(m.Path) && c.BaseModel == "" && m.Path == g.modelPath(m.Model) {
		c.BaseModel, _, _ = strings.Cut(m.Path, "@")
	}
	form := ""
	if usesStats(c.Method, c.Allocation) {
		c.Calibration = in.calibration
	}
	if c.Allocation != uniform && c.Method != Dense {
		form = g.Form
	}
	if c.Method == best {
		c.Steps = g.steps(&gridCell{Cell: c, model: m})
	}
	ctx := 0
	if g.Text != nil {
		ctx = g.Text.Ctx
	}
	depends := []any{idVersion, m.identity, c.Method, c.Ratio, c.Width, c.Expansion, c.Align, c.Allocation, form, c.Seed, c.Calibration, c.DType, in.data, in.versions, g.Limit, ctx}
	if c.Steps > 0 { // records of before there were any keep their IDs
		depends = append(depends, c.Steps)
	}
	c.ID = digest(depends...)
	g.cells = append(g.cells, gridCell{c, m, fmt.Sprintf("models[%d], %s", model, place)})
}

// steps is how many a cell of best takes: those of the file, or those that best takes by itself.
func (g *grid) steps(c *gridCell) int {
	if g.Steps != nil {
		return *g.Steps
	}
	if !g.inputs.holdsBack {
		return 0
	}
	spec := c.spec()
	if slices.Equal(spec.Widths, c.model.spec.Widths) {
		return 0 // nothing goes
	}
	widths := slices.Clone(spec.Widths)
	if c.Allocation != uniform { // the widest layer, of which it is not known yet, is as it was
		widths[0] = c.model.spec.Intermediate
	}
	// Cells are calibrated in float32, as prune does where it is told nothing.
	steps, _ := calib.BestSteps(c.model.transformer, widths, engine.F32, calib.DefaultMemory)
	return steps
}

// find returns the cell of an ID, or nil.
func (g *grid) find(id string) *gridCell {
	for i := range g.cells {
		if g.cells[i].ID == id {
			return &g.cells[i]
		}
	}
	return nil
}
