package surgery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// WeightsVersion is the version of the file form of refitted weights.
const WeightsVersion = 1

// WeightsHead says what refitted weights are of. Two runs with the same head have the
// same weights, bit for bit.
type WeightsHead struct {
	Version   int    `json:"coppice_weights"`
	Model     string `json:"model"`     // fingerprint of the checkpoint
	Plan      string `json:"plan"`      // plan.Selection of the plan that they belong to
	Tokenizer string `json:"tokenizer"` // fingerprint of the tokenizer
	Text      string `json:"text"`      // fingerprint of the rows of tokens that they were fitted on
	Context   int    `json:"context"`   // most tokens of a row
	Rows      string `json:"rows"`      // packed or padded
	Seed      uint64 `json:"seed"`      // of the order of the documents
	DType     string `json:"dtype"`     // precision in which the model ran
	Body      int64  `json:"body_tokens"`
	First     int64  `json:"first_tokens"`
	Held      int64  `json:"held_tokens"`
	Recipe    string `json:"recipe"` // how they were fitted, for people and for telling runs apart

	Hidden int   `json:"hidden_size"`
	Widths []int `json:"widths"`  // neurons of each layer's refitted MLP; 0: it is not refitted
	Inner  bool  `json:"gate_up"` // whether gate_proj and up_proj are refitted, too
	// Heads is the width of what o_proj receives; 0: no layer's is refitted. Else Outs says
	// which layers' are.
	Heads int    `json:"heads,omitempty"`
	Outs  []bool `json:"attention_out,omitempty"`
}

func (h *WeightsHead) check() error {
	switch {
	case h.Version != WeightsVersion:
		return fmt.Errorf("refitted weights of version %d; this program reads version %d", h.Version, WeightsVersion)
	case h.Hidden < 1 || len(h.Widths) == 0 || slices.Min(h.Widths) < 0:
		return fmt.Errorf("hidden size %d and widths %v: expected positive numbers", h.Hidden, h.Widths)
	case h.Heads < 0 || (h.Heads == 0) != (len(h.Outs) == 0) || h.Heads > 0 && len(h.Outs) != len(h.Widths):
		return fmt.Errorf("output projections of %d values in %d layers of %d", h.Heads, len(h.Outs), len(h.Widths))
	}
	return nil
}

// Weights are the refitted weights of a plan, in their file: safetensors with the head as
// JSON under the metadata key "coppice_weights" and, for each refitted layer l of h hidden
// values and k neurons that stay,
//
//	layers.l.down    F32 [h, k]
//	layers.l.gate    F32 [k, h]  where the head says gate_up
//	layers.l.up      F32 [k, h]  where the head says gate_up
//	layers.l.out     F32 [h, q]  o_proj, where the head says attention_out; without the others
//	                             in a layer whose MLP is not refitted
//	layers.l.sha256  U8  [32]    of the bytes of the others, in this order
//
// They are weights and not sums, because what reaches a layer depends on the refits of
// all before it: only the run that made them has seen it.
type Weights struct {
	WeightsHead
	path   string
	file   *os.File
	header *safetensors.Header
}

// LayerWeights are the refitted weights of a layer, row after row; what is nil stays as it
// is.
type LayerWeights struct {
	Gate, Up, Down []float32
	Out            []float32 // o_proj
}

const weightsKey = "coppice_weights"

// WeightsTensor is the name in the file of what it has of a layer: gate, up, down, out, or sha256, their digest.
func WeightsTensor(layer int, what string) string { return fmt.Sprintf("layers.%d.%s", layer, what) }

// parts lists the matrices of a layer in the order of the file.
func (h *WeightsHead) parts(layer int) []tensor.Info {
	var all []tensor.Info
	add := func(part string, rows, cols int) {
		all = append(all, tensor.Info{Name: part, DType: tensor.F32, Shape: tensor.Shape{rows, cols}})
	}
	if k := h.Widths[layer]; k > 0 {
		add("down", h.Hidden, k)
		if h.Inner {
			add("gate", k, h.Hidden)
			add("up", k, h.Hidden)
		}
	}
	if h.Heads > 0 && h.Outs[layer] {
		add("out", h.Hidden, h.Heads)
	}
	return all
}

func (h *WeightsHead) infos() []tensor.Info {
	var all []tensor.Info
	for l := range h.Widths {
		parts := h.parts(l)
		if len(parts) > 0 {
			parts = append(parts, tensor.Info{Name: "sha256", DType: tensor.U8, Shape: tensor.Shape{sha256.Size}})
		}
		for _, info := range parts {
			info.Name = WeightsTensor(l, info.Name)
			all = append(all, info)
		}
	}
	return all
}

func (h *WeightsHead) metadata() (map[string]string, error) {
	b, err := json.Marshal(h)
	return map[string]string{weightsKey: string(b)}, err
}

// WeightsWriter writes a file of refitted weights, layer by layer.
type WeightsWriter struct {
	head WeightsHead
	file *safetensors.Writer
}

// CreateWeights begins a file at path, which is made or emptied.
func CreateWeights(path string, head WeightsHead) (*WeightsWriter, error) {
	return openWeights(path, head, safetensors.Create)
}

// ContinueWeights opens a file that CreateWeights began, so that more layers can be
// written.
func ContinueWeights(path string, head WeightsHead) (*WeightsWriter, error) {
	return openWeights(path, head, safetensors.Continue)
}

func openWeights(path string, head WeightsHead, open func(string, map[string]string, []tensor.Info) (*safetensors.Writer, error)) (*WeightsWriter, error) {
	if err := head.check(); err != nil {
		return nil, err
	}
	meta, err := head.metadata()
	if err != nil {
		return nil, err
	}
	f, err := open(path, meta, head.infos())
	if err != nil {
		return nil, err
	}
	return &WeightsWriter{head, f}, nil
}

// WriteLayer writes the weights of a layer.
func (w *WeightsWriter) WriteLayer(layer int, m LayerWeights) error {
	digest := sha256.New()
	for _, part := range w.head.parts(layer) {
		v := *m.part(part.Name)
		if len(v) != part.Rows()*part.RowElements() {
			return fmt.Errorf("layer %d: %d values of %s, expected %v", layer, len(v), part.Name, []int(part.Shape))
		}
		b := make([]byte, 4*len(v))
		if err := tensor.Encode(b, v, tensor.F32); err != nil {
			return err
		}
		digest.Write(b)
		if err := w.write(WeightsTensor(layer, part.Name), b); err != nil {
			return err
		}
	}
	return w.write(WeightsTensor(layer, "sha256"), digest.Sum(nil))
}

func (w *WeightsWriter) write(name string, b []byte) error {
	to, err := w.file.Tensor(name)
	if err == nil {
		_, err = to.Write(b)
	}
	return err
}

func (m *LayerWeights) part(name string) *[]float32 {
	switch name {
	case "gate":
		return &m.Gate
	case "up":
		return &m.Up
	case "out":
		return &m.Out
	}
	return &m.Down
}

// Sync makes what was written so far durable.
func (w *WeightsWriter) Sync() error { return w.file.Sync() }

// Close makes what was written durable and closes the file.
func (w *WeightsWriter) Close() error { return w.file.Close() }

// OpenWeights opens a file of refitted weights and checks its header.
func OpenWeights(path string) (*Weights, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	w := &Weights{path: path, file: f}
	if err := w.readHeader(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return w, nil
}

func (w *Weights) readHeader() error {
	st, err := w.file.Stat()
	if err != nil {
		return err
	}
	if w.header, err = safetensors.ReadHeader(w.file, st.Size()); err != nil {
		return fmt.Errorf("not a file of refitted weights: %w", err)
	}
	meta, ok := w.header.Metadata[weightsKey]
	if !ok {
		return fmt.Errorf("not a file of refitted weights: its metadata has no key %q", weightsKey)
	}
	if err := json.Unmarshal([]byte(meta), &w.WeightsHead); err != nil {
		return fmt.Errorf("metadata %q: %w", weightsKey, err)
	}
	if err := w.check(); err != nil {
		return err
	}
	for _, want := range w.infos() {
		got, ok := w.header.Lookup(want.Name)
		if !ok || got.DType != want.DType || !got.Shape.Equal(want.Shape) {
			return fmt.Errorf("tensor %q is missing or not %v %v", want.Name, want.DType, []int(want.Shape))
		}
	}
	return nil
}

// Close closes the file. No weights, nil, need no closing.
func (w *Weights) Close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}

// Path is the file's path.
func (w *Weights) Path() string { return w.path }

// Layer reads the weights of a refitted layer and checks them against their digest.
func (w *Weights) Layer(layer int) (LayerWeights, error) {
	var m LayerWeights
	digest := sha256.New()
	for _, part := range w.parts(layer) {
		b, err := w.read(WeightsTensor(layer, part.Name))
		if err != nil {
			return m, err
		}
		digest.Write(b)
		v := make([]float32, len(b)/4)
		if err := tensor.Decode(v, b, tensor.F32); err != nil {
			return m, err
		}
		*m.part(part.Name) = v
	}
	want, err := w.read(WeightsTensor(layer, "sha256"))
	if err == nil && !bytes.Equal(digest.Sum(nil), want) {
		err = fmt.Errorf("%s: layer %d: the weights do not have the digest that was written with them; the file is damaged, make it again", w.path, layer)
	}
	return m, err
}

func (w *Weights) read(name string) ([]byte, error) {
	e, ok := w.header.Lookup(name)
	if !ok {
		return nil, fmt.Errorf("%s: has no tensor %q", w.path, name)
	}
	b := make([]byte, e.End-e.Begin)
	return b, w.ReadBytes(name, b, 0)
}

// ReadBytes fills dst with the bytes of a tensor from an offset on, unchecked by its layer's digest.
func (w *Weights) ReadBytes(name string, dst []byte, at int) error {
	e, ok := w.header.Lookup(name)
	if !ok {
		return fmt.Errorf("%s: has no tensor %q", w.path, name)
	}
	if _, err := io.ReadFull(io.NewSectionReader(w.file, e.Begin+int64(at), e.End-e.Begin-int64(at)), dst); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", w.path, name, err)
	}
	return nil
}

// Fingerprint identifies the weights: SHA-256 over the head and the layers' digests.
func (w *Weights) Fingerprint() (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(w.WeightsHead); err != nil {
		return "", err
	}
	for l := range w.Widths {
		if len(w.parts(l)) == 0 {
			continue
		}
		b, err := w.read(WeightsTensor(l, "sha256"))
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// checkModel is an error if the weights are of another model.
func (w *Weights) checkModel(fingerprint string, spec *arch.Spec) error {
	if w.Model != fingerprint {
		return fmt.Errorf("%s: the refitted weights are of another model (weights: %s, model: %s)", w.path, w.Model, fingerprint)
	}
	if len(w.Widths) != spec.Layers || w.Hidden != spec.Hidden {
		return fmt.Errorf("%s: the refitted weights do not fit their own model: %d layers of hidden size %d, the model has %d of %d", w.path, len(w.Widths), w.Hidden, spec.Layers, spec.Hidden)
	}
	return nil
}
