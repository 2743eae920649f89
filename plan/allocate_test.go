package plan

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/score"
)

// curvesFor makes falling curves at random, one a layer.
func curvesFor(seed uint64, widths ...int) *score.Curves {
	r := rand.New(rand.NewPCG(seed, 1))
	c := &score.Curves{Stats: "sha256:s", Text: "sha256:t", Cap: 0.5, Damping: 1e-3}
	for _, d := range widths {
		falling := func() []float32 {
			e := make([]float32, d+1)
			size := math.Exp(2 * r.NormFloat64())
			for k := d - 1; k >= 0; k-- {
				e[k] = e[k+1] + float32(size*r.ExpFloat64()/float64(1+k))
			}
			return e
		}
		c.Layers = append(c.Layers, score.Curve{Fit: falling(), Held: falling(), Cut: falling(), BodyStream: 1 + 9*r.Float64(), HeldStream: 1 + 9*r.Float64()})
	}
	return c
}

func sum(widths []int) int {
	n := 0
	for _, w := range widths {
		n += w
	}
	return n
}

// everyList calls f with each list of widths that an allocation may choose.
func everyList(d []int, step int, f func([]int)) {
	list := make([]int, len(d))
	var next func(i int)
	next = func(i int) {
		if i == len(d) {
			f(list)
			return
		}
		for w := step; w < d[i]; w += step {
			list[i] = w
			next(i + 1)
		}
		list[i] = d[i]
		next(i + 1)
	}
	next(0)
}

// The widths chosen cost least of all lists that keep as much, tried one by one.
func TestAllocateAgainstAllLists(t *testing.T) {
	for seed := range uint64(40) {
		d := []int{12, 12, 12, 12}
		curves := curvesFor(seed, d...)
		name := CurveNames[seed%2]
		refit := []RefitMethod{LeastSquares, LeastSquares, Bias, ""}[seed%4]
		if seed%3 == 0 { // no text held back
			for l := range curves.Layers {
				curves.Layers[l].Held, curves.Layers[l].HeldStream = nil, 0
			}
		}
		cost := func(widths []int) float64 {
			total := 0.0
			for l, w := range widths {
				c := curves.Layers[l]
				e, energy := c.Held, c.HeldStream
				switch {
				case refit != LeastSquares:
					e, energy = c.Cut, c.BodyStream
				case e == nil:
					e, energy = c.Fit, c.BodyStream
				}
				if name == Output {
					energy = float64(e[0])
				}
				total += float64(e[w]) / energy
			}
			return total
		}
		for _, width := range []int{3, 5, 7, 11} {
			rule, a, err := Allocate(curves, spec(d...), Rule{Width: ptr(width), Align: 1, AlignMode: Nearest}, AllocateOptions{Curve: name, Step: 3, Refit: refit})
			if err != nil {
				t.Fatal(err)
			}
			budget := 4 * width
			kept := sum(rule.Widths)
			if kept > budget || kept <= budget-3 {
				t.Errorf("seed %d: %d neurons of a budget of %d", seed, kept, budget)
			}
			best := math.Inf(1)
			everyList(d, 3, func(list []int) {
				if sum(list) == kept {
					best = min(best, cost(list))
				}
			})
			if got := cost(rule.Widths); math.Abs(got-best) > 1e-12*best || math.Abs(a.Error-best) > 1e-12*best {
				t.Errorf("seed %d: %v costs %v (says %v), the best %v", seed, rule.Widths, got, a.Error, best)
			}
			if want := cost([]int{width, width, width, width}); math.Abs(a.Uniform-want) > 1e-12*want {
				t.Errorf("seed %d: one width costs %v, want %v", seed, a.Uniform, want)
			}
		}
	}
}

// Budgets are met to less than a step, whatever the widths and the step.
func TestAllocateMeetsTheBudget(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := make([]int, 2+r.IntN(6))
		same := 8 + r.IntN(60)
		for i := range d {
			d[i] = same
		}
		step := 1 + r.IntN(same/2)
		ratio := 0.02 + 0.9*r.Float64()
		rule := Rule{Ratio: &ratio, Align: 1, AlignMode: Nearest}
		budget := 0
		for l := range d {
			_, w, err := rule.widths(l, same, 64)
			if err != nil {
				t.Fatal(err)
			}
			budget += w
		}
		got, _, err := Allocate(curvesFor(seed, d...), spec(d...), rule, AllocateOptions{Curve: Residual, Step: step, Refit: LeastSquares})
		if budget < step*len(d) {
			if !errors.As(err, new(*RuleError)) {
				t.Errorf("seed %d: %v with a budget of %d for %d steps of %d", seed, err, budget, len(d), step)
			}
			continue
		}
		if err != nil {
			// A ratio that takes no neuron is refused before.
			if !strings.Contains(err.Error(), "prunes nothing") {
				t.Fatal(err)
			}
			continue
		}
		if kept := sum(got.Widths); kept > budget || kept <= budget-step {
			t.Errorf("seed %d: %d of %d neurons in steps of %d: %v of %d", seed, kept, budget, step, got.Widths, same)
		}
		for _, w := range got.Widths {
			if w != same && w%step != 0 {
				t.Errorf("seed %d: a width of %d in steps of %d", seed, w, step)
			}
		}
		if err := got.CheckFor(spec(d...)); err != nil && slices.Min(got.Widths) < same {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// Layers that the rule leaves alone keep their width and are no part of the budget; zero
// neurons of the alignment are.
func TestAllocateSomeLayers(t *testing.T) {
	curves := curvesFor(3, 16, 16, 16, 16)
	rule := Rule{Width: ptr(5), Layers: []int{1, 3}, Align: 4, AlignMode: Pad}
	got, a, err := Allocate(curves, spec(16, 16, 16, 16), rule, AllocateOptions{Curve: Residual, Step: 4, Refit: LeastSquares})
	if err != nil {
		t.Fatal(err)
	}
	if got.Widths[0] != 16 || got.Widths[2] != 16 || got.Widths[1]+got.Widths[3] != 16 {
		t.Errorf("widths %v", got.Widths)
	}
	h := curves.Layers
	if want := float64(h[1].Held[5])/h[1].HeldStream + float64(h[3].Held[5])/h[3].HeldStream; math.Abs(a.Uniform-want) > 1e-12 {
		t.Errorf("one width costs %v, want %v", a.Uniform, want)
	}
	got, _, err = Allocate(curves, spec(16, 16, 16, 16), Rule{Ratio: ptr(0.5), Drop: []int{2}, Align: 1, AlignMode: Nearest}, AllocateOptions{Curve: Residual, Step: 2, Refit: LeastSquares})
	if err != nil || got.Widths[0]+got.Widths[1]+got.Widths[3] != 24 || !slices.Equal(got.Drop, []int{2}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Widths taken as they are, and left by moves, each the best of all, until none helps or there were
// enough.
func TestAllocateNear(t *testing.T) {
	d := []int{12, 12, 12, 10}
	curves, rule := curvesFor(4, d...), Rule{Width: ptr(9), Align: 1, AlignMode: Nearest}
	near := []int{4, 12, 8, 10}
	opt := AllocateOptions{Curve: Residual, Step: 4, Refit: LeastSquares, Near: near}
	cost := func(list []int) (sum float64) {
		for l, w := range list {
			sum += float64(curves.Layers[l].Held[w]) / curves.Layers[l].HeldStream
		}
		return sum
	}
	widths := [][]int{{4, 8, 12}, {4, 8, 12}, {4, 8, 12}, {4, 8, 10}} // the last has one step of another size
	last := near
	for opt.Moves = range 5 {
		got, a, err := Allocate(curves, spec(d...), rule, opt)
		if err != nil || math.Abs(a.Error-cost(got.Widths)) > 1e-12*a.Error {
			t.Fatalf("%d moves: %v costs %v, said to be %v: %v", opt.Moves, got.Widths, cost(got.Widths), a.Error, err)
		}
		want := last
		if opt.Moves > 0 { // the best move of all from the last
			everyList(d, 4, func(list []int) {
				var up, down, same []int
				for l, w := range list {
					switch i, j := slices.Index(widths[l], last[l]), slices.Index(widths[l], w); {
					case i == j:
						same = append(same, l)
					case j == i+1:
						up = append(up, w-last[l])
					case j == i-1:
						down = append(down, last[l]-w)
					}
				}
				if len(same) == 2 && slices.Equal(up, down) && cost(list) < cost(want) {
					want = slices.Clone(list)
				}
			})
		}
		if !slices.Equal(got.Widths, want) {
			t.Errorf("%d moves: %v, want %v", opt.Moves, got.Widths, want)
		}
		last = want
	}
	if slices.Equal(last, near) {
		t.Error("nothing was moved")
	}
	opt.Near = []int{5, 12, 7, 10}
	if _, _, err := Allocate(curves, spec(d...), rule, opt); err == nil || !strings.Contains(err.Error(), "layer 0: a width of 5") {
		t.Errorf("between two steps: %v", err)
	}
}

func TestAllocateRefuses(t *testing.T) {
	s := spec(16, 16)
	half := Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest}
	for name, test := range map[string]struct {
		rule   Rule
		curves *score.Curves
		step   int
		want   string
		usage  bool
	}{
		"nothing to share":   {Rule{Drop: []int{1}, Align: 1, AlignMode: Nearest}, curvesFor(1, 16, 16), 2, "needs --ratio", true},
		"a list":             {Rule{Widths: []int{3, 4}, Align: 1, AlignMode: Nearest}, curvesFor(1, 16, 16), 2, "needs --ratio", true},
		"step of 0":          {half, curvesFor(1, 16, 16), 0, "--allocation-step 0", true},
		"too wide a step":    {half, curvesFor(1, 16, 16), 17, "--allocation-step 17", true},
		"step against align": {Rule{Ratio: ptr(0.5), Align: 4, AlignMode: Nearest}, curvesFor(1, 16, 16), 6, "multiple of --align 4", true},
		"too small a budget": {half, curvesFor(1, 16, 16), 9, "too few", true},
		"a layer missing":    {half, curvesFor(1, 16), 2, "of 1 layers", false},
		"narrower curves":    {half, curvesFor(1, 16, 12), 2, "layer 1: the error curve is of 12 neurons", false},
		"no energy":          {half, &score.Curves{Layers: []score.Curve{{Fit: make([]float32, 17)}, {Fit: append([]float32{1}, make([]float32, 16)...)}}}, 2, "layer 1: the statistics have no energy", false},
	} {
		_, _, err := Allocate(test.curves, s, test.rule, AllocateOptions{Curve: Residual, Step: test.step, Refit: LeastSquares})
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.As(err, new(*RuleError)) != test.usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAllocationInTheFile(t *testing.T) {
	sc := &score.Scores{Model: "sha256:m", Method: score.MaxAbs, Layers: [][]float32{make([]float32, 16), make([]float32, 16)}}
	rule, a, err := Allocate(curvesFor(5, 16, 16), spec(16, 16), Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest}, AllocateOptions{Curve: Residual, Step: 2, Refit: LeastSquares})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Build(sc, spec(16, 16), rule)
	if err != nil {
		t.Fatal(err)
	}
	p.Allocation = a
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Fatalf("read back %+v, %v", got, err)
	}
	var shown strings.Builder
	if err := got.Show(&shown); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"as many parameters as --ratio 0.5", "steps of 2", "curve residual", "sha256:s", "#."} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("the plan is shown without %q:\n%s", want, shown.String())
		}
	}
	for from, to := range map[string]string{
		`"curve": "residual"`: `"curve": "other"`,
		`"step": 2`:           `"step": 0`,
		`"stats": "sha256:s"`: `"stats": ""`,
		`"error": `:           `"error": -`,
		`"error_uniform": `:   `"error_uniform": -`,
		`"ratio": 0.5`:        `"ratio": 5`,
		`"align_mode": "nearest"
    },
    "stats"`: `"align_mode": "sideways" }, "stats"`,
	} {
		bad := strings.Replace(string(b), from, to, 1)
		if bad == string(b) {
			t.Fatalf("%s is not in the file:\n%s", from, b)
		}
		if _, err := Decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), `"allocation"`) {
			t.Errorf("%s instead of %s: %v", to, from, err)
		}
	}
}
