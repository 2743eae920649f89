package plan

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/score"
)

func spec(widths ...int) *arch.Spec {
	return &arch.Spec{Family: &arch.Families[0], Hidden: 64, Layers: len(widths), Intermediate: widths[0], Widths: widths}
}

func ptr[T any](v T) *T { return &v }

func TestWidths(t *testing.T) {
	for _, test := range []struct {
		rule        Rule
		d           int
		keep, width int // 0: refused
	}{
		{Rule{Ratio: ptr(0.6), Align: 1, AlignMode: Nearest}, 8192, 3277, 3277}, // the published recipe
		{Rule{Ratio: ptr(0.6), Align: 1, AlignMode: Nearest}, 1536, 615, 615},
		{Rule{Ratio: ptr(0.2), Align: 1, AlignMode: Nearest}, 1536, 1229, 1229},
		{Rule{Ratio: ptr(0.999), Align: 1, AlignMode: Nearest}, 10, 1, 1}, // one neuron stays
		{Rule{Ratio: ptr(0.6), Align: 256, AlignMode: Nearest}, 8192, 3328, 3328},
		{Rule{Ratio: ptr(0.6), Align: 256, AlignMode: Down}, 8192, 3072, 3072},
		{Rule{Ratio: ptr(0.6), Align: 256, AlignMode: Pad}, 8192, 3277, 3328},
		{Rule{Ratio: ptr(0.95), Align: 256, AlignMode: Nearest}, 1536, 256, 256},
		{Rule{Ratio: ptr(0.95), Align: 256, AlignMode: Down}, 1536, 0, 0},
		{Rule{Expansion: ptr(2.0), Align: 1, AlignMode: Nearest}, 1536, 128, 128},
		{Rule{Expansion: ptr(24.0), Align: 1, AlignMode: Nearest}, 1536, 1536, 1536},
		{Rule{Expansion: ptr(25.0), Align: 1, AlignMode: Nearest}, 1536, 0, 0},
		{Rule{Width: ptr(1536), Align: 256, AlignMode: Nearest}, 1536, 1536, 1536}, // keep all
		{Rule{Width: ptr(1000), Align: 1, AlignMode: Nearest}, 1536, 1000, 1000},
		{Rule{Width: ptr(2000), Align: 1, AlignMode: Nearest}, 1536, 0, 0},
		// REPORTS.md, prune/align.
		{Rule{Ratio: ptr(0.1), Align: 128, AlignMode: Nearest}, 250, 0, 0},
		{Rule{Ratio: ptr(0.1), Align: 128, AlignMode: Pad}, 250, 0, 0},
		{Rule{Ratio: ptr(0.05), Align: 256, AlignMode: Nearest}, 1536, 0, 0},
		{Rule{Ratio: ptr(1e-9), Align: 1, AlignMode: Nearest}, 1536, 0, 0},
	} {
		if err := test.rule.CheckFor(spec(test.d, test.d)); test.width == 0 {
			if !errors.As(err, new(*RuleError)) {
				t.Errorf("%s of %d: got %v; want a RuleError", test.rule.String(), test.d, err)
			}
			continue
		}
		keep, width, err := test.rule.widths(0, test.d, 64)
		if err != nil || keep != test.keep || width != test.width {
			t.Errorf("%s of %d: got %d, %d, %v; want %d, %d", test.rule.String(), test.d, keep, width, err, test.keep, test.width)
		}
	}
}

func TestRefusalNamesRatioAndAlignment(t *testing.T) {
	r := Rule{Ratio: ptr(0.1), Align: 128, AlignMode: Nearest}
	err := r.CheckFor(spec(250))
	if err == nil || !strings.Contains(err.Error(), "--ratio 0.1") || !strings.Contains(err.Error(), "--align 128") {
		t.Error(err)
	}
}

func TestRuleCheck(t *testing.T) {
	ok := func() Rule { return Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest} }
	for name, change := range map[string]func(*Rule){
		"ratio 0":        func(r *Rule) { r.Ratio = ptr(0.0) },
		"ratio 1":        func(r *Rule) { r.Ratio = ptr(1.0) },
		"ratio 1.5":      func(r *Rule) { r.Ratio = ptr(1.5) },
		"ratio -1":       func(r *Rule) { r.Ratio = ptr(-1.0) },
		"ratio NaN":      func(r *Rule) { r.Ratio = ptr(math.NaN()) },
		"ratio Inf":      func(r *Rule) { r.Ratio = ptr(math.Inf(1)) },
		"align 0":        func(r *Rule) { r.Align = 0 },
		"align too wide": func(r *Rule) { r.Align = 9 },
		"mode":           func(r *Rule) { r.AlignMode = "up" },
		"nothing":        func(r *Rule) { r.Ratio = nil },
		"two":            func(r *Rule) { r.Width = ptr(3) },
		"layer":          func(r *Rule) { r.Layers = []int{2} },
		"drop layer":     func(r *Rule) { r.Drop = []int{-1} },
		"drop all":       func(r *Rule) { r.Drop = []int{0, 1} },
		"width 0":        func(r *Rule) { r.Ratio, r.Width = nil, ptr(0) },
		"width -1":       func(r *Rule) { r.Ratio, r.Width = nil, ptr(-1) },
		"expansion":      func(r *Rule) { r.Ratio, r.Expansion = nil, ptr(math.NaN()) },
		"one width":      func(r *Rule) { r.Ratio, r.Widths = nil, []int{4} },
		"three widths":   func(r *Rule) { r.Ratio, r.Widths = nil, []int{4, 4, 4} },
		"widths, ratio":  func(r *Rule) { r.Widths = []int{4, 4} },
		"widths, layers": func(r *Rule) { r.Ratio, r.Widths, r.Layers = nil, []int{4, 4}, []int{0} },
		"widths of 0":    func(r *Rule) { r.Ratio, r.Widths = nil, []int{4, 0} },
		"widths too big": func(r *Rule) { r.Ratio, r.Widths = nil, []int{4, 9} },
		"widths rounded to nothing": func(r *Rule) {
			r.Ratio, r.Widths, r.Align = nil, []int{7, 8}, 8
		},
	} {
		r := ok()
		change(&r)
		if err := r.CheckFor(spec(8, 8)); !errors.As(err, new(*RuleError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := ok(); r.CheckFor(spec(8, 8)) != nil {
		t.Error("a good rule is refused")
	}
}

func TestBuildTiesAndOrder(t *testing.T) {
	s := &score.Scores{Model: "m", Method: score.MaxAbs, Layers: [][]float32{{1, 3, 1, 3, 2, 3, 1, 0}, {5, 5, 5, 5, 5, 5, 5, 5}}}
	p, err := Build(s, spec(8, 8), Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{1, 3, 4, 5}; !reflect.DeepEqual(p.Layers[0].Keep, want) {
		t.Errorf("kept %v, want %v", p.Layers[0].Keep, want)
	}
	if want := []int{0, 1, 2, 3}; !reflect.DeepEqual(p.Layers[1].Keep, want) {
		t.Errorf("of equal scores kept %v, want the lower indices %v", p.Layers[1].Keep, want)
	}
}

func TestSomeLayersAndPadding(t *testing.T) {
	s := &score.Scores{Model: "m", Method: score.MaxAbs, Layers: [][]float32{{1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}}}
	p, err := Build(s, spec(4, 4, 4), Rule{Width: ptr(2), Layers: []int{1}, Drop: []int{2}, Align: 1, AlignMode: Nearest})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Widths(); !reflect.DeepEqual(got, []int{4, 2}) || p.Uniform() {
		t.Errorf("widths %v, uniform %v", got, p.Uniform())
	}
	q, err := p.InForm(Padded, spec(4, 4, 4))
	if err != nil {
		t.Fatal(err)
	}
	if got := q.Widths(); !reflect.DeepEqual(got, []int{4, 4}) || len(q.Layers[1].Keep) != 2 || p.Layers[1].Width != 2 {
		t.Errorf("padded widths %v, kept %v, original %v", got, q.Layers[1].Keep, p.Layers[1])
	}
}

// A list of widths is rounded layer by layer. A layer that rounding would leave as wide
// as it was stays whole, as long as another becomes narrower.
func TestListOfWidths(t *testing.T) {
	scores := func(widths ...int) *score.Scores {
		s := &score.Scores{Model: "m", Method: score.MaxAbs}
		for _, w := range widths {
			s.Layers = append(s.Layers, make([]float32, w))
		}
		return s
	}
	for _, test := range []struct {
		model       []int
		rule        Rule
		kept, width []int
	}{
		{[]int{8, 8, 8}, Rule{Widths: []int{3, 8, 1}, Align: 1, AlignMode: Nearest}, []int{3, 8, 1}, []int{3, 8, 1}},
		{[]int{8, 8, 8}, Rule{Widths: []int{3, 8, 1}, Align: 4, AlignMode: Nearest}, []int{4, 8, 4}, []int{4, 8, 4}},
		{[]int{8, 8, 8}, Rule{Widths: []int{3, 7, 1}, Align: 4, AlignMode: Pad}, []int{3, 8, 1}, []int{4, 8, 4}},
		{[]int{8, 8, 8}, Rule{Widths: []int{3, 9, 1}, Drop: []int{1}, Align: 1, AlignMode: Nearest}, []int{3, 1}, []int{3, 1}},
		{[]int{8, 8}, Rule{Widths: []int{8, 8}, Align: 4, AlignMode: Nearest}, []int{8, 8}, []int{8, 8}}, // keep all
		// A model whose layers differ already.
		{[]int{8, 4, 6}, Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest}, []int{4, 2, 3}, []int{4, 2, 3}},
		{[]int{8, 4, 6}, Rule{Ratio: ptr(0.5), Align: 4, AlignMode: Nearest}, []int{4, 4, 4}, []int{4, 4, 4}},
	} {
		p, err := Build(scores(test.model...), spec(test.model...), test.rule)
		if err != nil {
			t.Errorf("%s of %v: %v", test.rule.String(), test.model, err)
			continue
		}
		var kept []int
		for _, l := range p.Kept() {
			kept = append(kept, len(l.Keep))
		}
		if !reflect.DeepEqual(kept, test.kept) || !reflect.DeepEqual(p.Widths(), test.width) {
			t.Errorf("%s of %v: kept %v, widths %v; want %v, %v", test.rule.String(), test.model, kept, p.Widths(), test.kept, test.width)
		}
	}
}

func TestFileForm(t *testing.T) {
	s := &score.Scores{Model: "m", Method: score.Random, Seed: 7, Layers: [][]float32{{1, 2, 3, 4}, {4, 3, 2, 1}}}
	p, err := Build(s, spec(4, 4), Rule{Ratio: ptr(0.5), Drop: []int{1}, Align: 1, AlignMode: Nearest})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Encode()
	if err != nil || string(again) != string(b) {
		t.Error("the same plan has other bytes")
	}
	q, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, q) {
		t.Errorf("read back %+v, want %+v", q, p)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const layer = `{"layer":0,"width":2,"keep":[0,2]}`
	good := `{"coppice_plan":1,"model":"m","family":"llama","hidden_size":4,"intermediate_size":4,"rule":{"align":1,"align_mode":"nearest"},"layers":[` + layer + `]}`
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct{ from, to string }{
		{`"coppice_plan":1`, `"coppice_plan":3`}, {`"coppice_plan":1`, `"coppice_plan":0`},
		{`"width":2`, `"width":2,"drop_attention":true`}, {`"width":2`, `"width":2,"keep_kv_heads":[0]`}, // not in version 1
		{`[0,2]`, `[2,0]`}, {`[0,2]`, `[0,0]`}, {`[0,2]`, `[-1,2]`}, {`[0,2]`, `[0,4]`}, {`[0,2]`, `[]`},
		{`"width":2`, `"width":1`}, {`"width":2`, `"width":5`},
		{`"layer":0`, `"layer":1`}, {layer, ``}, {layer, `{"layer":0,"drop":true}`}, {layer, `{"layer":0,"drop":true,"width":1}`},
		{`{`, `[`},
	} {
		if _, err := Decode([]byte(strings.Replace(good, change.from, change.to, 1))); err == nil {
			t.Errorf("%s instead of %s: no error", change.to, change.from)
		}
	}
}

func TestDiff(t *testing.T) {
	a := KeepAll("m", spec(4, 4))
	b := KeepAll("m", spec(4, 4))
	b.Layers[1].Keep, b.Layers[1].Width = []int{1, 3}, 2
	d, err := Diff(a, b)
	if err != nil {
		t.Fatal(err)
	}
	if !d[0].Same() || d[1].Same() || d[1].Both != 2 || d[1].KeepB != 2 {
		t.Errorf("%+v", d)
	}
	if _, err := Diff(a, KeepAll("m", spec(4))); err == nil {
		t.Error("plans of different shapes compared")
	}
}

func TestParseLayers(t *testing.T) {
	got, err := ParseLayers("2-4,24,3, 0")
	if err != nil || !reflect.DeepEqual(got, []int{0, 2, 3, 4, 24}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "3-1", "1-", "-1", "1,,2", "0-99999999", "1.5"} {
		if l, err := ParseLayers(bad); err == nil {
			t.Errorf("%q: %v", bad, l)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"coppice_plan":1,"model":"m","intermediate_size":4,"rule":{},"layers":[{"layer":0,"width":2,"keep":[0,2]}]}`))
	f.Add([]byte(`{"coppice_plan":1,"intermediate_size":4,"layers":[{"layer":0,"drop":true},{"layer":1,"width":1,"keep":[0]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		p.Uniform()
		for _, form := range Forms {
			p.InForm(form, &arch.Spec{Family: &arch.Families[0], Hidden: p.Hidden, Layers: len(p.Layers), Widths: p.Widths()})
		}
		out, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(out); err != nil {
			t.Fatalf("what was read is written as what cannot be read: %v\n%s", err, out)
		}
	})
}

func TestRefitInTheFile(t *testing.T) {
	p := KeepAll("sha256:m", spec(8, 8))
	p.Layers[1].Keep, p.Layers[1].Width, p.Layers[1].Damping = []int{1, 2}, 2, 0.01
	p.Method = score.OBS
	p.Calibration = &score.Calibration{Stats: "sha256:s", Text: "sha256:t", Tokens: 9, Cap: 0.5, Damping: 1e-3}
	p.Refit = &Refit{Method: LeastSquares, Stats: "sha256:s", Cap: 0.5}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(p, got) {
		t.Fatalf("read back %+v, %v", got, err)
	}
	if p.Refits(p.Layers[0], 8) || !p.Refits(p.Layers[1], 8) || p.Refits(p.Layers[1], 2) {
		t.Error("a layer is refitted where, and only where, neurons go")
	}
	none := *p
	none.Layers = append([]Layer(nil), p.Layers...)
	none.Layers[1].Damping = 0
	if err := none.CheckModel("sha256:m", spec(8, 8)); err == nil || !strings.Contains(err.Error(), "layer 1, but says no damping") {
		t.Errorf("a refit without a damping: %v", err)
	}
	none.Layers[1].Keep = []int{0, 1}
	if err := none.CheckModel("sha256:m", spec(8, 2)); err != nil {
		t.Errorf("a whole layer that is narrower than others: %v", err)
	}
	for _, c := range []struct{ from, to, want string }{
		{`"least-squares"`, `"other"`, "unknown refit"},
		{`"damping":0.01`, `"damping":-1`, "layer 1: damping -1"},
		{`"damping":0.01`, `"damping":20`, "layer 1: damping 20"},
		{`"method": "least-squares",
    "stats": "sha256:s"`, `"method": "least-squares", "stats": ""`, "fingerprint"},
		{`"first_token_cap": 0.5
  },`, `"first_token_cap": 7},`, ""},
	} {
		bad := strings.Replace(string(b), c.from, c.to, 1)
		if bad == string(b) {
			t.Fatalf("%s is not in the file:\n%s", c.from, b)
		}
		if c.want == "" {
			continue
		}
		if _, err := Decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s instead of %s: %v", c.to, c.from, err)
		}
	}
}

// Only a refit towards predictions has labels.
func TestLabelsInTheFile(t *testing.T) {
	p := KeepAll("sha256:m", spec(8, 8))
	p.Layers[1].Keep, p.Layers[1].Width = []int{1, 2}, 2
	for _, c := range []struct {
		target Target
		labels float64
		want   string
	}{{PredictionsTarget, 0, ""}, {PredictionsTarget, 0.5, ""}, {PredictionsTarget, 1, ""}, {PredictionsTarget, 1.5, "labels 1.5"}, {PredictionsTarget, -0.5, "labels -0.5"}, {StreamTarget, 0.5, "none but with"}} {
		p.Refit = &Refit{Method: Propagated, Stats: "sha256:s", Cap: 1, Target: c.target, Labels: c.labels}
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if c.want == "" && (err != nil || !reflect.DeepEqual(p, got)) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, labels %v: read back %+v, %v", c.target, c.labels, got, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	a := &score.Scores{Layers: [][]float32{{4, 3, 2, 1}}}
	b := &score.Scores{Layers: [][]float32{{1, 4, 3, 2}}}
	got, err := Overlap(a, b, []float64{0.25, 0.5, 0.75})
	if want := [][]float64{{2.0 / 3, 0.5, 0}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := Overlap(a, &score.Scores{}, nil); err == nil {
		t.Error("scores of different shapes were compared")
	}
}
