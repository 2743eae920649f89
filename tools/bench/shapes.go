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
	"github.com/coppice-lm/coppice/internal/synth"
)

// The text that models of random weights are calibrated on: as many tokens as calib asks for
// at least of layers of 8,192, in documents that are short enough for some to be held back.
// The tokenizer takes a byte for a token.
const (
	shapeTokens   = 8192
	shapeDocument = 255
)

// calibShapes has statistics made of a model of random weights, and the model pruned by the
// preset, and compares memory, time and files with what docs/methods.md says they are. It
// needs 1.2 GB of disk a layer of 8,192; a shape's time and memory are those of its layers
// one by one, so that fewer (-layers, of the 3B shapes) do for a try.
func (b *bench) calibShapes(m model, layers int) error {
	m, err := b.withTokenizer(m)
	if err != nil {
		return err
	}
	shape, err := readShape(m.dir, layers)
	if err != nil {
		return err
	}
	// The statistics, and a model of less than half the layers' size.
	if err := checkSpace(b.dir, shape.statistics()+shape.weights()/2+2*shape.vocab*shape.h); err != nil {
		return err
	}
	text := filepath.Join(b.work, "shapes.jsonl")
	if err := writeDocuments(text, shapeDocument, 2*shapeTokens); err != nil {
		return err
	}
	threads := fmt.Sprint(slices.Max(b.engine.threads))
	name := fmt.Sprintf("%s, %d layers, %s threads", m.name, layers, threads)
	stats, out := b.output("statistics.safetensors"), b.output("shapes")
	defer os.Remove(stats)
	took, _, err := b.run(b.coppice, "calib", m.dir, "-o", stats, "--calib", text, "--tokens", fmt.Sprint(shapeTokens), "--threads", threads, "--quiet")
	if err != nil {
		return err
	}
	b.record("calib, "+name, took)
	file, err := os.Stat(stats)
	if err != nil {
		return err
	}
	peak := mebibytes(took.Peak)
	b.report.add(row{What: "calib, " + name + ", time", Unit: "s", Ours: took.Wall})
	b.report.add(row{What: "calib, " + name + ", multiply-adds of layers and sums", Unit: "GFLOP/s of processor time", Ours: shape.flops(shapeTokens) / 1e9 / took.CPU})
	b.report.add(row{What: "calib, " + name + ", peak memory / law", Unit: "MiB", Ours: peak, Peer: mebibytes(shape.calibBytes(shapeTokens)), Ratio: float64(took.Peak) / float64(shape.calibBytes(shapeTokens)), Goal: "<= 2048", holds: peak <= 2048})
	b.report.add(row{What: "calib, " + name + ", file / law", Unit: "MB", Ours: float64(file.Size()) / 1e6, Peer: float64(shape.statistics()) / 1e6, Ratio: float64(file.Size()) / float64(shape.statistics())})
	defer os.RemoveAll(out)
	took, _, err = b.run(b.coppice, "prune", m.dir, "-o", out, "--ratio", calibRatio, "--method", "best", "--stats", stats, "--threads", threads, "--quiet")
	if err != nil {
		return err
	}
	b.record("prune --method best, "+name, took)
	b.report.add(row{What: "prune --method best --stats, " + name + ", time of a layer", Unit: "s", Ours: took.Wall / float64(layers)})
	b.report.add(row{What: "prune --method best --stats, " + name + ", peak memory / law", Unit: "MiB", Ours: mebibytes(took.Peak), Peer: mebibytes(shape.obsBytes()), Ratio: float64(took.Peak) / float64(shape.obsBytes())})
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
	m := model{"3B shapes", modelDir(b.options)}
	if _, err := os.Stat(m.dir); err != nil {
		say("making a checkpoint of %d layers in %s", b.layers, m.dir)
		if _, err := b.self("model"); err != nil {
			return err
		}
	}
	return b.calibShapes(m, b.layers)
}

// withTokenizer gives a checkpoint that has none a tokenizer.
func (b *bench) withTokenizer(m model) (model, error) {
	if _, err := os.Stat(filepath.Join(m.dir, "tokenizer.json")); err == nil {
		return m, nil
	}
	return m, synth.WriteTokenizer(m.dir)
}

// writeDocuments writes the built-in text in documents of so many bytes, some bytes in all.
func writeDocuments(path string, size, total int) error {
	var passages []string
	for _, w := range calib.BuiltIn() {
		passages = append(passages, w.Passages...)
	}
	text := strings.ToValidUTF8(strings.Join(passages, "\n\n")[:total], "")
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
type shape struct{ h, d, q, k, layers, vocab int64 }

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
	return shape{h: int64(t.Hidden), d: int64(t.Layers[0].Width), q: int64(t.Heads * t.HeadDim), k: int64(t.KVHeads * t.HeadDim), layers: int64(layers), vocab: int64(t.Vocab)}, nil
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
