package calib

import (
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// A layer without MLP has no sums, but the tokens and streams that the others have; that
// attention is missing elsewhere makes no difference to how sums are taken.
func TestCollectWithoutMLP(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	c, err := arch.ParseConfig(synth.Config(32, tinyWidth, tinyLayers, 4, 2, synth.VocabSize, true))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]any{"model_type": "coppice_llama", "intermediate_sizes": []int{tinyWidth, 0, 24},
		"num_attention_heads_per_layer": []int{0, 4, 2}, "num_key_value_heads_per_layer": []int{0, 2, 1}} {
		if err := c.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := synth.Write(dir, c.Bytes(), tensor.F32, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteTokenizer(dir); err != nil {
		t.Fatal(err)
	}
	st := openStats(t, collect(t, openTiny(t, dir), writeText(t, 20), options()))
	for l, width := range []int{tinyWidth, 0, 24} {
		s, err := st.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		if s.Width != width || len(s.Body.Sum) != width || s.Body.N != st.Body || s.First.N != st.First || s.Held.N != st.Held {
			t.Errorf("layer %d: width %d with sums of %d, and %d, %d, %d tokens; want %d, and %d, %d, %d", l, s.Width, len(s.Body.Sum), s.Body.N, s.First.N, s.Held.N, width, st.Body, st.First, st.Held)
		}
		if !(s.Body.Stream.Energy > 0) || width > 0 && !(s.Body.Trace() > 0) {
			t.Errorf("layer %d: energy %v, trace %v", l, s.Body.Stream.Energy, s.Body.Trace())
		}
	}
}
