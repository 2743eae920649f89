// Package internal holds what belongs to the module as a whole: here, that its layers
// are kept.
package internal

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/coppice-lm/coppice/"

// layers says how high each package stands. A package may import packages of lower
// layers; within a layer only along an edge of sameLayer.
var layers = map[string]int{
	"tensor":                           0,
	"internal/parallel":                0,
	"internal/filelock":                0,
	"internal/frontmatter":             0,
	"internal/parquetrows":             0,
	"safetensors":                      1,
	"gguf":                             1,
	"linalg":                           1,
	"arch":                             2,
	"checkpoint":                       2,
	"tokenizer":                        2,
	"score":                            3,
	"plan":                             3,
	"surgery":                          3,
	"internal/synth":                   3,
	"eval":                             3,
	"eval/tasks":                       3,
	"eval/evaltest":                    3,
	"engine":                           4,
	"engine/cpu":                       4,
	"engine/cpu/kernel":                4,
	"engine/enginetest":                4,
	"export":                           4,
	"lm":                               5,
	"calib":                            5,
	"energy":                           6,
	"speed":                            6,
	"study":                            7,
	"report":                           7,
	"report/reporttest":                7, // for tests only
	"card":                             7,
	"cmd/coppice":                      8,
	"internal/shared":                  0, // for tests only
	"internal/ggufwrite":               1, // for tests only
	"internal":                         0, // this test
	"tools/bench":                      8,
	"tools/ablation":                   8,
	"tools/peers/tokenize":             8,
	"tools/peers/chat":                 8,
	"tools/peers/logits":               8,
	"engine/cpu/kernel/internal/param": 4, // shapes that kernels and their generator share
	"engine/cpu/kernel/internal/peak":  4, // the loop of FMAs that benchmarks compare with
	"engine/cpu/kernel/internal/asm":   4, // the generator
	"linalg/internal/asm":              1, // the generator
}

var sameLayer = []string{
	"checkpoint -> arch",
	"checkpoint -> tokenizer",
	"plan -> score",
	"surgery -> plan",
	"surgery -> score",
	"eval/tasks -> eval",
	"eval/evaltest -> eval",
	"eval/evaltest -> eval/tasks",
	"calib -> lm",
	"engine/cpu -> engine",
	"engine/cpu -> engine/cpu/kernel",
	"engine/enginetest -> engine",
	"engine/cpu/kernel -> engine/cpu/kernel/internal/param",
	"engine/cpu/kernel/internal/asm -> engine/cpu/kernel/internal/param",
	"internal/ggufwrite -> gguf",
	"speed -> energy",
	"report -> study",
	"report/reporttest -> study",
	"card -> study",
}

// testOnly are packages that no product package may import.
var testOnly = []string{"internal/shared", "internal/ggufwrite", "eval/evaltest", "engine/enginetest", "report/reporttest"}

func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for dec.More() {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		seen++
		from := strings.TrimPrefix(p.ImportPath, module)
		high, ok := layers[from]
		if !ok {
			t.Errorf("package %s has no layer; give it one here and in docs/architecture.md", from)
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			low, ok := layers[to]
			edge := from + " -> " + to
			switch {
			case !ok:
				t.Errorf("%s: %s has no layer", edge, to)
			case slices.Contains(testOnly, to) && !slices.Contains(testOnly, from):
				t.Errorf("%s: %s is for tests only", edge, to)
			case low > high, low == high && !slices.Contains(sameLayer, edge):
				t.Errorf("%s: layer %d must not import layer %d", edge, high, low)
			}
		}
	}
	if seen < len(layers)/2 {
		t.Fatalf("go list named %d packages; the test looks at nothing", seen)
	}
}
