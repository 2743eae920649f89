package score

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// Stats are the statistics of a model's MLPs on a text, in their file: safetensors with
// the head as JSON under the metadata key "coppice_stats" and, for each layer l and each
// class c of tokens (body, first, held),
//
//	layers.l.c.gram   F64 [d(d+1)/2] the lower triangle of the sum of a a'
//	layers.l.c.sum    F64 [d]        the sum of a
//	layers.l.c.stream F64 [2]        the sums of Stream: energy, weights
//
// which is 12 d(d+3) + 48 bytes a layer. Layers are read one at a time.
type Stats struct {
	StatsHead
	path   string
	file   *os.File
	header *safetensors.Header
}

const statsKey = "coppice_stats"

// classes are the names of the sums in the order of the file.
var classes = []string{"body", "first", "held"}

func (s *LayerStats) byClass() []*Moments { return []*Moments{&s.Body, &s.First, &s.Held} }

func (h *StatsHead) counts() []int64 { return []int64{h.Body, h.First, h.Held} }

func statsTensor(layer int, class, what string) string {
	return fmt.Sprintf("layers.%d.%s.%s", layer, class, what)
}

// infos lists the file's tensors.
func (h *StatsHead) infos() []tensor.Info {
	var all []tensor.Info
	for l, d := range h.Widths {
		for _, c := range classes {
			all = append(all,
				tensor.Info{Name: statsTensor(l, c, "gram"), DType: tensor.F64, Shape: tensor.Shape{triangle(d)}},
				tensor.Info{Name: statsTensor(l, c, "sum"), DType: tensor.F64, Shape: tensor.Shape{d}},
				tensor.Info{Name: statsTensor(l, c, "stream"), DType: tensor.F64, Shape: tensor.Shape{2}})
		}
	}
	return all
}

// StatsWriter writes a file of statistics, layer by layer.
type StatsWriter struct {
	head StatsHead
	file *safetensors.Writer
}

// CreateStats begins a file of statistics at path, which is made or emptied.
func CreateStats(path string, head StatsHead) (*StatsWriter, error) {
	return openWriter(path, head, safetensors.Create)
}

// ContinueStats opens a file that CreateStats began, so that more layers can be written.
func ContinueStats(path string, head StatsHead) (*StatsWriter, error) {
	return openWriter(path, head, safetensors.Continue)
}

func openWriter(path string, head StatsHead, open func(string, map[string]string, []tensor.Info) (*safetensors.Writer, error)) (*StatsWriter, error) {
	if err := head.check(); err != nil {
		return nil, err
	}
	meta, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	f, err := open(path, map[string]string{statsKey: string(meta)}, head.infos())
	if err != nil {
		return nil, err
	}
	return &StatsWriter{head, f}, nil
}

// WriteLayer writes the sums of a layer.
func (w *StatsWriter) WriteLayer(layer int, s *LayerStats) error {
	for i, m := range s.byClass() {
		if s.Width != w.head.Widths[layer] || m.N != w.head.counts()[i] {
			return fmt.Errorf("layer %d: %d neurons and %d %s tokens, expected %d and %d", layer, s.Width, m.N, classes[i], w.head.Widths[layer], w.head.counts()[i])
		}
		for what, v := range map[string][]float64{"gram": m.Gram, "sum": m.Sum, "stream": {m.Stream.Energy, m.Stream.Weights}} {
			to, err := w.file.Tensor(statsTensor(layer, classes[i], what))
			if err == nil {
				err = WriteFloats(to, v)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Sync makes what was written so far durable.
func (w *StatsWriter) Sync() error { return w.file.Sync() }

// Close makes what was written durable and closes the file.
func (w *StatsWriter) Close() error { return w.file.Close() }

// OpenStats opens a file of statistics and checks its header.
func OpenStats(path string) (*Stats, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &Stats{path: path, file: f}
	if err := s.readHeader(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *Stats) readHeader() error {
	st, err := s.file.Stat()
	if err != nil {
		return err
	}
	if s.header, err = safetensors.ReadHeader(s.file, st.Size()); err != nil {
		return fmt.Errorf("not a file of statistics: %w", err)
	}
	meta, ok := s.header.Metadata[statsKey]
	if !ok {
		return fmt.Errorf("not a file of statistics: its metadata has no key %q; make one with `coppice calib`", statsKey)
	}
	if err := json.Unmarshal([]byte(meta), &s.StatsHead); err != nil {
		return fmt.Errorf("metadata %q: %w", statsKey, err)
	}
	if err := s.check(); err != nil {
		return err
	}
	if len(s.Widths) > len(s.header.Tensors) {
		return fmt.Errorf("%d tensors for %d layers", len(s.header.Tensors), len(s.Widths))
	}
	for _, want := range s.infos() {
		got, ok := s.header.Lookup(want.Name)
		if !ok || got.DType != want.DType || !got.Shape.Equal(want.Shape) {
			return fmt.Errorf("tensor %q is missing or not %v %v", want.Name, want.DType, []int(want.Shape))
		}
	}
	return nil
}

// Close closes the file. Nil statistics, of a method that needs none, have none.
func (s *Stats) Close() error {
	if s == nil {
		return nil
	}
	return s.file.Close()
}

// Path is the file's path.
func (s *Stats) Path() string { return s.path }

// Layer reads the statistics of one layer, about 12 d^2 bytes. A sum that is not finite
// is an error.
func (s *Stats) Layer(layer int) (*LayerStats, error) {
	if layer < 0 || layer >= len(s.Widths) {
		return nil, fmt.Errorf("%s: no layer %d of %d", s.path, layer, len(s.Widths))
	}
	l := NewLayerStats(s.Widths[layer])
	for i, m := range l.byClass() {
		m.N = s.counts()[i]
		stream := make([]float64, 2)
		for what, v := range map[string][]float64{"gram": m.Gram, "sum": m.Sum, "stream": stream} {
			e, _ := s.header.Lookup(statsTensor(layer, classes[i], what))
			if err := ReadFloats(io.NewSectionReader(s.file, e.Begin, e.End-e.Begin), v); err != nil {
				return nil, fmt.Errorf("%s: tensor %q: %w", s.path, e.Name, err)
			}
		}
		m.Stream = Stream{Energy: stream[0], Weights: stream[1]}
	}
	if err := l.checkFinite(); err != nil {
		return nil, fmt.Errorf("%s: layer %d: %w; the file is damaged, make it again with `coppice calib`", s.path, layer, err)
	}
	return l, nil
}

// SecondMoments returns the mean square of each activation of a layer over all tokens, in
// which first tokens have the weight that LayerStats.Second gives them for the limit: the
// diagonal of its H. Only the diagonals are read.
func (s *Stats) SecondMoments(layer int, limit float64) ([]float64, error) {
	if layer < 0 || layer >= len(s.Widths) {
		return nil, fmt.Errorf("%s: no layer %d of %d", s.path, layer, len(s.Widths))
	}
	d := s.Widths[layer]
	var traces [3]float64
	var squares [3][]float64
	b := make([]byte, 8)
	for i, class := range classes {
		squares[i] = make([]float64, d)
		e, _ := s.header.Lookup(statsTensor(layer, class, "gram"))
		for j := range squares[i] {
			if _, err := s.file.ReadAt(b, e.Begin+8*int64(triangle(j+1)-1)); err != nil {
				return nil, fmt.Errorf("%s: tensor %q: %w", s.path, e.Name, err)
			}
			x := math.Float64frombits(binary.LittleEndian.Uint64(b))
			if x-x != 0 || x < 0 {
				return nil, fmt.Errorf("%s: layer %d: neuron %d has a sum of squares of %v; the file is damaged, make it again with `coppice calib`", s.path, layer, j, x)
			}
			squares[i][j] = x
			traces[i] += x
		}
	}
	const body, first, held = 0, 1, 2 // as in classes
	weight := firstWeight(traces[body]+traces[held], traces[first], limit)
	total := max(1, float64(s.Body+s.Held)+weight*float64(s.First))
	mean := make([]float64, d)
	for j := range mean {
		mean[j] = (squares[body][j] + squares[held][j] + weight*squares[first][j]) / total
	}
	return mean, nil
}

// Fingerprint identifies the statistics: SHA-256 over the head, the sums of a and those
// of the residual stream (not those of a a', of which there are d times as many).
func (s *Stats) Fingerprint() (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(s.StatsHead); err != nil {
		return "", err
	}
	for l := range s.Widths {
		for _, c := range classes {
			for _, what := range []string{"sum", "stream"} {
				e, _ := s.header.Lookup(statsTensor(l, c, what))
				if _, err := io.Copy(h, io.NewSectionReader(s.file, e.Begin, e.End-e.Begin)); err != nil {
					return "", fmt.Errorf("%s: tensor %q: %w", s.path, e.Name, err)
				}
			}
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// CheckModel is an error if the statistics are of another model.
func (s *Stats) CheckModel(fingerprint string, spec *arch.Spec) error {
	if s.Model != fingerprint {
		return fmt.Errorf("%s: the statistics are of another model (statistics: %s, model: %s); make them for this one with `coppice calib`", s.path, s.Model, fingerprint)
	}
	if !slices.Equal(s.Widths, spec.Widths) {
		return fmt.Errorf("%s: the statistics do not fit their own model: widths %v, the model has %v", s.path, s.Widths, spec.Widths)
	}
	return nil
}

// floatsPerCall is how many values WriteFloats and ReadFloats convert at a time.
const floatsPerCall = 8192

// WriteFloats writes values as little-endian float64.
func WriteFloats(w io.Writer, v []float64) error {
	buf := make([]byte, 8*min(len(v), floatsPerCall))
	for part := range slices.Chunk(v, floatsPerCall) {
		for i, x := range part {
			binary.LittleEndian.PutUint64(buf[8*i:], math.Float64bits(x))
		}
		if _, err := w.Write(buf[:8*len(part)]); err != nil {
			return err
		}
	}
	return nil
}

// ReadFloats fills v with little-endian float64.
func ReadFloats(r io.Reader, v []float64) error {
	buf := make([]byte, 8*min(len(v), floatsPerCall))
	for len(v) > 0 {
		part := v[:min(len(v), floatsPerCall)]
		if _, err := io.ReadFull(r, buf[:8*len(part)]); err != nil {
			return err
		}
		for i := range part {
			part[i] = math.Float64frombits(binary.LittleEndian.Uint64(buf[8*i:]))
		}
		v = v[len(part):]
	}
	return nil
}
