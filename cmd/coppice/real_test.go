package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/score"
)

// The tests of this file run on SmolLM2-135M-Instruct and compare with what
// transformers 5.24 and optipfair 0.4.2 make of it.

const realModel = "models/SmolLM2-135M-Instruct.Q4_1.gguf"

// imported imports the real model once a type; the directory lives as long as the tests.
var imported = struct {
	sync.Mutex
	dirs map[string]string
}{dirs: map[string]string{}}

func importReal(t *testing.T, dtype string) (gguf, dir string) {
	t.Helper()
	gguf = filepath.Join(shared.Dir(t), filepath.FromSlash(realModel))
	imported.Lock()
	defer imported.Unlock()
	if dir, ok := imported.dirs[dtype]; ok {
		return gguf, dir
	}
	dir = filepath.Join(realDir, dtype)
	succeed(t, "import", gguf, "-o", dir, "--dtype", dtype, "--quiet")
	imported.dirs[dtype] = dir
	return gguf, dir
}

// golden reads a recorded answer.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(shared.Dir(t), "golden", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestRealImport(t *testing.T) {
	var want struct {
		Tensors map[string]map[string]struct {
			Shape  []int
			SHA256 string
		}
	}
	golden(t, "import_digests.json", &want)
	for dtype, tensors := range want.Tensors {
		_, dir := importReal(t, strings.ToLower(dtype))
		c := open(t, dir)
		if len(c.Tensors()) != len(tensors) || len(tensors) == 0 {
			t.Errorf("%s: %d tensors, want %d", dtype, len(c.Tensors()), len(tensors))
		}
		for name, w := range tensors {
			info, b := readTensor(t, c, name)
			sum := sha256.Sum256(b)
			if !slices.Equal(info.Shape, w.Shape) || info.DType.String() != dtype || hex.EncodeToString(sum[:]) != w.SHA256 {
				t.Errorf("%s: tensor %q %v %v has digest %x, want %v %s", dtype, name, info.DType, info.Shape, sum, w.Shape, w.SHA256)
			}
		}
		for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !json.Valid(b) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestRealKeep(t *testing.T) {
	gguf, dir := importReal(t, "f32")
	tmp := t.TempDir()
	for _, method := range []string{"maxabs", "variance", "product", "l2"} {
		scores := filepath.Join(tmp, method+".json")
		succeed(t, "score", dir, "--method", method, "-o", scores, "--quiet")
		b, err := os.ReadFile(scores)
		if err != nil {
			t.Fatal(err)
		}
		s, err := score.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		var want struct{ Scores [][]float64 }
		golden(t, "prune/"+method+"_scores_layers0to2.json", &want)
		if len(want.Scores) != 3 {
			t.Fatalf("%d layers of golden scores", len(want.Scores))
		}
		for l, layer := range want.Scores {
			for j, w := range layer {
				if got := float64(s.Layers[l][j]); math.Abs(got-w) > 1e-6*math.Abs(w) {
					t.Errorf("%s: layer %d neuron %d scores %v, want %v", method, l, j, got, w)
				}
			}
		}
		for _, percent := range []int{20, 40, 60} {
			ratio := fmt.Sprintf("0.%d", percent/10)
			planFile := filepath.Join(tmp, fmt.Sprintf("%s%d.json", method, percent))
			succeed(t, "plan", dir, "--scores", scores, "--ratio", ratio, "-o", planFile, "--quiet")
			var want struct {
				K      int
				Layers []struct{ Keep []int }
			}
			golden(t, fmt.Sprintf("prune/%s_%d.json", method, percent), &want)
			p := readPlan(t, planFile)
			if len(p.Layers) != len(want.Layers) {
				t.Fatalf("%d layers, want %d", len(p.Layers), len(want.Layers))
			}
			for l := range p.Layers {
				if len(p.Layers[l].Keep) != want.K || !slices.Equal(p.Layers[l].Keep, want.Layers[l].Keep) {
					t.Errorf("%s at %d %%: layer %d does not keep the golden's neurons", method, percent, l)
				}
			}
			if percent != 60 || method != "maxabs" {
				continue
			}
			// One of them carried out: the tensors hold the golden's rows and columns.
			out := filepath.Join(tmp, "pruned")
			succeed(t, "prune", dir, "--method", method, "--ratio", ratio, "-o", out, "--quiet")
			before, after := open(t, dir), open(t, out)
			for l := range p.Layers {
				keep := want.Layers[l].Keep
				for _, name := range []string{"gate_proj", "up_proj", "down_proj"} {
					name = fmt.Sprintf("model.layers.%d.mlp.%s.weight", l, name)
					info, b := readTensor(t, before, name)
					size := int(info.RowBytes())
					var expected []byte
					if !strings.Contains(name, "down") {
						expected = rowsOf(b, size, keep)
					} else {
						for row := range slices.Chunk(b, size) {
							expected = append(expected, rowsOf(row, 4, keep)...)
						}
					}
					if _, got := readTensor(t, after, name); !slices.Equal(got, expected) {
						t.Errorf("tensor %q does not hold the golden's neurons", name)
					}
				}
			}
			// Apply of the saved plan is prune, byte for byte.
			applied := filepath.Join(tmp, "applied")
			succeed(t, "apply", dir, "--plan", planFile, "-o", applied, "--quiet")
			unchanged(t, applied, tree(t, out))
		}
	}
	// Straight from the GGUF the same neurons stay.
	planFile := filepath.Join(tmp, "gguf.json")
	succeed(t, "plan", gguf, "--ratio", "0.6", "-o", planFile, "--quiet")
	a, b := readPlan(t, planFile), readPlan(t, filepath.Join(tmp, "maxabs60.json"))
	for l := range a.Layers {
		if !slices.Equal(a.Layers[l].Keep, b.Layers[l].Keep) {
			t.Errorf("layer %d of the GGUF keeps other neurons", l)
		}
	}
}

// The whole way: import, inspect, prune, verify.
func TestRealChain(t *testing.T) {
	gguf, dir := importReal(t, "f16")
	tmp := t.TempDir()
	var r inspection
	decode(t, succeed(t, "inspect", dir, "--json").stdout, &r)
	if r.Total != 134_515_008 || r.Intermediate != 1536 || r.Layers != 30 || r.KVHeads != 3 || !r.Tied || r.ByType["F16"] != 2*r.Total {
		t.Errorf("inspect: %+v", r)
	}
	out, direct, all := filepath.Join(tmp, "pruned"), filepath.Join(tmp, "direct"), filepath.Join(tmp, "all")
	succeed(t, "prune", dir, "-o", out, "--ratio", "0.6", "--quiet")
	succeed(t, "verify", out, "--against", dir)
	decode(t, succeed(t, "inspect", out, "--json").stdout, &r)
	if r.Intermediate != 615 {
		t.Errorf("width %d, want 615", r.Intermediate)
	}

	// Straight from the GGUF the neurons are chosen before rounding to F16, so that near
	// ties may fall otherwise; the same neurons are the same bytes.
	succeed(t, "prune", gguf, "-o", direct, "--ratio", "0.6", "--quiet")
	succeed(t, "verify", direct, "--against", gguf)
	p := readPlan(t, filepath.Join(direct, checkpoint.PlanName))
	p.Model = readPlan(t, filepath.Join(out, checkpoint.PlanName)).Model
	planFile := filepath.Join(tmp, "plan.json")
	writeJSON(t, planFile, p)
	succeed(t, "apply", dir, "--plan", planFile, "-o", out, "--force", "--quiet")
	a, b := tree(t, out), tree(t, direct)
	delete(a, checkpoint.PlanName)
	delete(b, checkpoint.PlanName)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("from the import and from the GGUF (+):\n%s", diff)
	}

	// A plan that keeps all neurons changes no byte.
	succeed(t, "prune", dir, "-o", all, "--width", "1536", "--quiet")
	b = tree(t, all)
	delete(b, checkpoint.PlanName)
	unchanged(t, dir, b)
}
