package plan

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/score"
)

// headed is a model of layers with 4 heads, 2 of them of keys and values.
func headed(layers int) *arch.Spec {
	s := &arch.Spec{Family: &arch.Families[0], Hidden: 64, Heads: 4, KVHeads: 2, HeadDim: 16, Layers: layers, Intermediate: 8, Vocab: 32}
	for range layers {
		s.Widths = append(s.Widths, 8)
	}
	return s
}

func TestParts(t *testing.T) {
	s := headed(5)
	scores := &score.Scores{Model: "m"}
	for range s.Layers {
		scores.Layers = append(scores.Layers, []float32{1, 2, 3, 4, 5, 6, 7, 8})
	}
	rule := Rule{Ratio: ptr(0.5), Align: 1, AlignMode: Nearest, Drop: []int{0}, DropAttention: []int{1}, DropMLP: []int{2}, DropHeads: []KVHead{{3, 0}}}
	p, err := Build(scores, s, rule)
	if err != nil {
		t.Fatal(err)
	}
	last := []int{4, 5, 6, 7}
	want := []Layer{
		{Layer: 0, Drop: true, Keep: []int{}},
		{Layer: 1, Width: 4, Keep: last, DropAttention: true},
		{Layer: 2, Keep: []int{}},
		{Layer: 3, Width: 4, Keep: last, KeepHeads: []int{1}},
		{Layer: 4, Width: 4, Keep: last},
	}
	if !reflect.DeepEqual(p.Layers, want) || p.Version != 2 {
		t.Errorf("version %d, %+v", p.Version, p.Layers)
	}
	after := p.Spec(s)
	if !reflect.DeepEqual(after.Widths, []int{4, 0, 4, 4}) || !reflect.DeepEqual(after.Attention, []arch.HeadCount{{}, {Queries: 4, KV: 2}, {Queries: 2, KV: 1}, {Queries: 4, KV: 2}}) || after.Form != arch.PerLayer {
		t.Errorf("leaves widths %v and attention %v in the form %v", after.Widths, after.Attention, after.Form)
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(b)
	if err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("read back: %+v, %v", again, err)
	}
	if err := again.CheckModel("m", s); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := p.Show(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--drop-layers 0 --drop-attention 1 --drop-mlp 2 --drop-heads 3:0", "layer  attention    width", "1       none        4", "2        all        0     0", "3    heads 1        4"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("shown without %q:\n%s", want, out.String())
		}
	}
	diffs, err := Diff(p, KeepAll("m", s))
	if err != nil || diffs[3].Same() || diffs[3].AttentionA != "heads 1" || diffs[3].AttentionB != "all" {
		t.Errorf("%+v, %v", diffs, err)
	}
	a, err1 := p.Selection()
	p.Layers[1].DropAttention = false
	if b, err2 := p.Selection(); err1 != nil || err2 != nil || a == b {
		t.Error("a plan that keeps an attention is the same selection")
	}
	for _, change := range []struct{ from, to, want string }{
		{`"coppice_plan": 2`, `"coppice_plan": 1`, "version 1 of a plan cannot say"},
		{`"keep_kv_heads":[1]`, `"keep_kv_heads":[1,1]`, "key-value head 1 at position 1"},
		{`"keep_kv_heads":[1]`, `"keep_kv_heads":[-1]`, "key-value head -1"},
		{`"keep_kv_heads":[1]`, `"keep_kv_heads":[1],"drop_attention":true`, "of an attention that is dropped"},
		{`"layer":2,"width":0,`, `"layer":2,"drop_attention":true,"width":0,`, "keeps neither attention nor neurons"},
		{`"drop":true`, `"drop":true,"drop_attention":true`, "is dropped but keeps"},
	} {
		if _, err := Decode(bytes.Replace(b, []byte(change.from), []byte(change.to), 1)); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: %v, want %q", change.to, err, change.want)
		}
	}
	other, err := Decode(bytes.Replace(b, []byte(`"keep_kv_heads":[1]`), []byte(`"keep_kv_heads":[2]`), 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.CheckModel("m", s); err == nil || !strings.Contains(err.Error(), "key-value head 2 of layer 3, which has 2") {
		t.Error(err)
	}
}

// A plan that says nothing new is written as it always was, and heads that go from all
// layers alike leave a plain model.
func TestPartsThatNeedNoForm(t *testing.T) {
	s := headed(2)
	if p := KeepAll("m", s); p.Version != 1 {
		t.Errorf("keeping all is version %d", p.Version)
	}
	p, err := Build(&score.Scores{Layers: make([][]float32, 2)}, s, Rule{Align: 1, AlignMode: Nearest, DropHeads: []KVHead{{0, 1}, {1, 0}}})
	if err != nil {
		t.Fatal(err)
	}
	if after := p.Spec(s); after.Form != arch.Plain || after.Heads != 2 || after.KVHeads != 1 || after.Attention != nil {
		t.Errorf("%+v", after)
	}
	// A model that lacks parts already keeps what it has.
	s.Widths[0], s.Attention = 0, []arch.HeadCount{{Queries: 4, KV: 2}, {}}
	if p := KeepAll("m", s); p.Version != 2 || p.CheckModel("m", s) != nil || !reflect.DeepEqual(p.Spec(s).Attention, s.Attention) {
		t.Errorf("version %d, %v, %v", p.Version, p.CheckModel("m", s), p.Spec(s).Attention)
	}
}

func TestPartsRefused(t *testing.T) {
	for want, change := range map[string]func(*Rule, *arch.Spec){
		"no layer 3":                        func(r *Rule, _ *arch.Spec) { r.DropAttention = []int{3} },
		"--drop-mlp: there is no layer 9":   func(r *Rule, _ *arch.Spec) { r.DropMLP = []int{9} },
		"--drop-heads: there is no layer 3": func(r *Rule, _ *arch.Spec) { r.DropHeads = []KVHead{{3, 0}} },
		"no key-value head 2; it has 2":     func(r *Rule, _ *arch.Spec) { r.DropHeads = []KVHead{{1, 2}} },
		"names all 2 key-value heads":       func(r *Rule, _ *arch.Spec) { r.DropHeads = []KVHead{{1, 0}, {1, 1}} },
		"a head of layer 1, whose attention is dropped": func(r *Rule, _ *arch.Spec) {
			r.DropAttention, r.DropHeads = []int{1}, []KVHead{{1, 1}}
		},
		"--drop-attention names layer 1, which": func(r *Rule, _ *arch.Spec) { r.Drop, r.DropAttention = []int{1}, []int{1} },
		"--drop-mlp names layer 2, which":       func(r *Rule, s *arch.Spec) { s.Widths[2], r.DropMLP = 0, []int{2} },
		"nothing would be left of layer 1":      func(r *Rule, _ *arch.Spec) { r.DropMLP, r.DropAttention = []int{1}, []int{1} },
		"0 layers with attention":               func(r *Rule, _ *arch.Spec) { r.DropAttention = []int{0, 1, 2} },
		"and 0 with an MLP":                     func(r *Rule, _ *arch.Spec) { r.DropMLP = []int{0, 1, 2} },
		"olmo2 normalises":                      func(r *Rule, s *arch.Spec) { s.Family, r.DropHeads = &arch.Families[8], []KVHead{{1, 1}} },
	} {
		s, r := headed(3), Rule{Align: 1, AlignMode: Nearest}
		change(&r, s)
		if err := r.CheckFor(s); !errors.As(err, new(*RuleError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if got, err := ParseHeads("7:1, 3:0,7:1"); err != nil || !reflect.DeepEqual(got, []KVHead{{3, 0}, {7, 1}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "3", "3:", ":1", "3:-1", "3:0,", "a:b", "3:0:1"} {
		if got, err := ParseHeads(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
