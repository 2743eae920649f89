//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/internal/synth"
)

// The text that models of random weights are calibrated on: as many tokens as calib asks for
// at least of layers of 8,192, in documents that are short enough for some to be held back.
// The tokenizer takes a byte for a token.
const (
	shapeTokens   = 8192
	shapeDocument = 255
	stepsTokens   = calib.DefaultStepTokens * 6 / 5 // of which a tenth is held back
	stepsTaken    = 2
)

// Layers of 3B shapes that are measured. Time, memory and files go layer by layer, so that
// all 28 would say no more, for 23 GB of statistics and a quarter of an hour of pruning.
const (
	calibLayers = 12
	bestLayers  = 2
)

// shaped is a model of random weights, and a text for it.
type shaped struct {
	model
	shape
	name, text, threads string
}

// shaped makes the text, and checks that there is room for the statistics and for a pruned
// model of less than half the layers' size.
func (b *bench) shaped(m model, layers int) (*shaped, error) {
	if _, err := os.Stat(filepath.Join(m.dir, "tokenizer.json")); err != nil {
		if err := synth.WriteTokenizer(m.dir); err != nil {
			return nil, err
		}
	}
	extents, err := readShape(m.dir, layers)
	if err != nil {
		return nil, err
	}
	if err := checkSpace(b.dir, extents.statistics()+extents.weights()/2+2*extents.vocab*extents.h); err != nil {
		return nil, err
	}
	threads := fmt.Sprint(slices.Max(b.engine.threads))
	s := &shaped{m, extents, fmt.Sprintf("%s, %d layers, %s threads", m.name, layers, threads), b.output("shapes.jsonl"), threads}
	return s, writeDocuments(s.text, strings.ToValidUTF8(builtInText()[:2*stepsTokens], ""), shapeDocument)
}

// statisticsOf has statistics made.
func (b *bench) statisticsOf(s *shaped) (path string, took usage, err error) {
	path = b.output("statistics.safetensors")
	took, _, err = b.run(b.coppice, "calib", s.dir, "-o", path, "--calib", s.text, "--tokens", fmt.Sprint(shapeTokens), "--threads", s.threads, "--quiet")
	return path, took, err
}

// calibShapes compares memory, time and file of statistics with what docs/methods.md says
// they are.
func (b *bench) calibShapes(m model, layers int) error {
	s, err := b.shaped(m, layers)
	if err != nil {
		return err
	}
	stats, took, err := b.statisticsOf(s)
	defer os.Remove(stats)
	if err != nil {
		return err
	}
	name := "calib, " + s.name
	b.record(name, took)
	file, err := os.Stat(stats)
	if err != nil {
		return err
	}
	peak, law, size := mebibytes(took.Peak), s.calibBytes(shapeTokens), s.statistics()
	b.report.add(row{What: name + ", time", Unit: "s", Ours: took.Wall})
	b.report.add(row{What: name + ", operations a second of processor time", Unit: "GFLOP/s", Ours: s.flops(shapeTokens) / 1e9 / took.CPU})
	b.report.add(row{What: name + ", peak memory / law", Unit: "MiB", Ours: peak, Peer: mebibytes(law), Ratio: float64(took.Peak) / float64(law), Goal: "<= 2048", holds: peak <= 2048})
	b.report.add(row{What: name + ", file / law", Unit: "MB", Ours: float64(file.Size()) / 1e6, Peer: float64(size) / 1e6, Ratio: float64(file.Size()) / float64(size)})
	return nil
}

func (b *bench) calibOneB(model) error {
	m, err := b.oneB()
	if err != nil {
		return err
	}
	return b.calibShapes(m, oneBLayers)
}

func (b *bench) calibThreeB(model) error {
	layers := min(calibLayers, b.layers)
	m, err := b.threeB(layers)
	if err != nil {
		return err
	}
	return b.calibShapes(m, layers)
}

// fewThreeB is the few layers of 3B shapes that say what one layer takes.
func (b *bench) fewThreeB() (s *shaped, layers int, err error) {
	layers = min(bestLayers, b.layers)
	m, err := b.threeB(layers)
	if err == nil {
		s, err = b.shaped(m, layers)
	}
	return s, layers, err
}

// bestThreeB measures the preset: obs, the curves of errors, the choice of damping, refits.
func (b *bench) bestThreeB(model) error {
	s, layers, err := b.fewThreeB()
	if err != nil {
		return err
	}
	stats, _, err := b.statisticsOf(s)
	defer os.Remove(stats)
	if err != nil {
		return err
	}
	took, _, err := b.run(b.coppice, "prune", s.dir, "-o", b.output("best"), "--ratio", calibRatio, "--method", "best", "--stats", stats, "--threads", s.threads, "--quiet")
	if err != nil {
		return err
	}
	name := "prune --method best --stats, " + s.name
	b.record(name, took)
	b.report.add(row{What: name + ", time of a layer", Unit: "s", Ours: took.Wall / float64(layers)})
	b.report.add(row{What: name + ", peak memory / law", Unit: "MiB", Ours: mebibytes(took.Peak), Peer: mebibytes(s.obsBytes()), Ratio: float64(took.Peak) / float64(s.obsBytes())})
	return nil
}

// stepsThreeB measures steps on all layers together. What they hold does not grow with the layers.
func (b *bench) stepsThreeB(model) error {
	s, layers, err := b.fewThreeB()
	if err != nil {
		return err
	}
	chosen, stepped := b.output("plan.json"), b.output("stepped.json")
	if _, _, err := b.run(b.coppice, "plan", s.dir, "-o", chosen, "--ratio", calibRatio, "--align", "1", "--quiet"); err != nil {
		return err
	}
	left := int(s.d * 2 / 5) // of a layer by calibRatio
	law := calib.StepsMemory(s.transformer, slices.Repeat([]int{left}, layers), engine.BF16)
	took, _, err := b.run(b.coppice, "refit", s.dir, "--plan", chosen, "--target", "predictions", "--steps", fmt.Sprint(stepsTaken), "--calib", s.text,
		"--tokens", fmt.Sprint(stepsTokens), "--calib-dtype", "bf16", "--calib-memory", fmt.Sprintf("%.1fGB", float64(law)/1e9+0.1),
		"-o", stepped, "--stats", b.output("stepped"), "--threads", s.threads, "--quiet")
	if err != nil {
		return err
	}
	name := "refit --target predictions, " + s.name
	b.record(name, took)
	b.report.add(row{What: name + ", time of a step", Unit: "s", Ours: took.Wall / stepsTaken})
	b.report.add(row{What: name + ", peak memory / law", Unit: "MiB", Ours: mebibytes(took.Peak), Peer: mebibytes(law), Ratio: float64(took.Peak) / float64(law)})
	return nil
}

// threeB is a model of 3B shapes with so many layers.
func (b *bench) threeB(layers int) (model, error) {
	part := *b
	part.layers = layers
	m := model{"3B shapes", modelDir(part.options)}
	if _, err := os.Stat(m.dir); err == nil {
		return m, nil
	}
	say("making a checkpoint of %d layers in %s", layers, m.dir)
	_, err := part.self("model")
	return m, err
}

// builtInText is the passages of the built-in text.
func builtInText() string {
	var passages []string
	for _, w := range calib.BuiltIn() {
		passages = append(passages, w.Passages...)
	}
	return strings.Join(passages, "\n\n")
}

// writeDocuments writes a text in documents of at most so many bytes.
func writeDocuments(path, text string, size int) error {
	var lines []byte
	for len(text) > 0 {
		n := min(size, len(text))
		line, err := json.Marshal(map[string]string{"text": strings.ToValidUTF8(text[:n], "")})
		if err != nil {
			return err
		}
		lines, text = append(append(lines, line...), '\n'), text[n:]
	}
	return os.WriteFile(path, lines, 0o644)
}

// shape is the extents of a model: hidden size, width, values of queries and of keys of a
// token, layers, vocabulary.
type shape struct {
	h, d, q, k, layers, vocab int64
	transformer               *arch.Transformer
}

func readShape(dir string, layers int) (shape, error) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return shape{}, err
	}
	c, err := arch.ParseConfig(text)
	if err != nil {
		return shape{}, err
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		return shape{}, err
	}
	t, err := spec.Transformer(c)
	if err != nil {
		return shape{}, err
	}
	if len(t.Layers) != layers {
		return shape{}, fmt.Errorf("%s has %d layers, not %d: remove it to have it made again", dir, len(t.Layers), layers)
	}
	return shape{h: int64(t.Hidden), d: int64(t.Layers[0].Width), q: int64(t.Heads * t.HeadDim), k: int64(t.KVHeads * t.HeadDim), layers: int64(layers), vocab: int64(t.Vocab), transformer: t}, nil
}

// The laws, as "Time and memory" of docs/methods.md gives them, in bytes and operations.

// layer is the values of a layer's matrices.
func (s shape) layer() int64 { return s.h*(2*s.q+2*s.k) + 3*s.h*s.d }

// weights is the size of the layers in a file of 16 bits a value.
func (s shape) weights() int64 { return 2 * s.layers * s.layer() }

// statistics is the size of the file.
func (s shape) statistics() int64 { return s.layers * (12*s.d*(s.d+3) + 48) }

// calibBytes is what calib holds of a text: a layer, its sums, a batch and the streams.
func (s shape) calibBytes(tokens int64) int64 {
	return 4*s.layer() + 12*s.d*(s.d+3) + 20e3*(s.h+s.d) + 8e6 + 4*s.h*tokens
}

// flops is what calib computes of a text: the layers' matrices, and half of X'X.
func (s shape) flops(tokens int64) float64 {
	return float64(s.layers) * float64(tokens) * float64(2*s.layer()+s.d*s.d)
}

// obsBytes is what obs needs of a layer: its statistics, and four matrices.
func (s shape) obsBytes() int64 { return (12 + 4*8) * s.d * s.d }
