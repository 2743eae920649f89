package calib

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/score"
)

// place is how far a run has come: all layers before Layer are in the partial output, and
// the sums of Layer are of the batches before Batch.
type place struct {
	Job   string  `json:"coppice_calibration"` // what is computed, as a digest
	Layer int     `json:"layer"`
	Batch int     `json:"batch"`
	Width int     `json:"width"`  // of the layer whose sums follow; 0: none do
	Count []int64 `json:"counts"` // tokens that they are of: of the body, first, held
}

// files are the names of a run's files: the output, the output while it is being made,
// the sums so far, those while they are being written, and two for the residual streams
// of each model, which are used where spill is set.
type files struct {
	out, part, state, next string
	streams                [][2]string
	pairs                  [3]string // of a layer's inputs and the two parts of its targets while it is fitted
	spill                  bool
}

func filesFor(out string, models int) files {
	dir, base := filepath.Split(out)
	hidden := dir + "." + base + ".coppice-"
	f := files{out: out, part: hidden + "part", state: hidden + "state", next: hidden + "state-next",
		pairs: [3]string{hidden + "inputs", hidden + "targets", hidden + "repairs"}}
	for i := range models {
		f.streams = append(f.streams, [2]string{fmt.Sprintf("%sstreams-%d", hidden, 2*i), fmt.Sprintf("%sstreams-%d", hidden, 2*i+1)})
	}
	return f
}

// save replaces the state file, at once or not at all: a line that says what follows, the
// sums of the layer that is being run (stats, nil where there are none), and the residual
// streams that are in memory.
func (f files) save(p place, stats *score.LayerStats, streams []*streams) error {
	p.Width, p.Count = 0, nil
	if stats != nil {
		p.Width, p.Count = stats.Width, []int64{stats.Body.N, stats.First.N, stats.Held.N}
	}
	head, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp, err := os.Create(f.next)
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	w := bufio.NewWriterSize(tmp, 1<<20)
	_, err = w.Write(append(head, '\n'))
	if err == nil {
		err = eachSum(stats, func(v []float64) error { return score.WriteFloats(w, v) })
	}
	for _, s := range streams {
		if err == nil {
			err = writeValues(w, s.memory())
		}
	}
	if err == nil {
		err = w.Flush()
	}
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(f.next, f.state)
	}
	if err != nil {
		os.Remove(f.next)
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

// resumed is where a run goes on, and what it had there.
type resumed struct {
	place
	stats   *score.LayerStats // nil where no sums belong to the place
	streams []*streams
}

func (at *resumed) close() {
	for _, s := range at.streams {
		s.close()
	}
}

// resume opens the streams and reads the state of the computation of head: two runs with
// the same have the same state at the same place. Where there is none, or it is of
// another computation, the place is the beginning, and the state goes: the partial output
// that it belongs to is emptied next.
func (r *run) resume(head any) (*resumed, error) {
	b, err := json.Marshal(struct {
		Head   any
		Spills bool
		Law    []int
	}{head, r.files.spill, []int{batchTokens, chunkRows, orderOfSums}})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	at := &resumed{}
	var state *stateReader
	if at.place, state, err = r.files.readPlace(hex.EncodeToString(sum[:])); err != nil {
		return nil, err
	}
	if state != nil {
		defer state.Close()
	} else if err := os.Remove(r.files.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &checkpoint.WriteError{Err: err}
	}
	if err := r.read(at, state); err != nil {
		at.close()
		return nil, err
	}
	return at, nil
}

// read opens the streams and reads what state, nil at the beginning, holds.
func (r *run) read(at *resumed, state *stateReader) error {
	for _, names := range r.files.streams {
		if !r.files.spill {
			names = [2]string{}
		}
		s, err := openStreams(names, r.text.tokens(), r.model.Engine().Model().Hidden, state != nil)
		if err != nil {
			return err
		}
		at.streams = append(at.streams, s)
	}
	if state == nil {
		return nil
	}
	if at.Width > 0 {
		at.stats = score.NewLayerStats(at.Width)
		at.stats.Body.N, at.stats.First.N, at.stats.Held.N = at.Count[0], at.Count[1], at.Count[2]
	}
	err := eachSum(at.stats, func(v []float64) error { return score.ReadFloats(state, v) })
	for _, s := range at.streams {
		if err == nil {
			err = readValues(state, s.memory())
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w; remove it to begin anew", r.files.state, err)
	}
	return nil
}

// stateReader is a state file after its first line.
type stateReader struct {
	*bufio.Reader
	*os.File
}

func (r *stateReader) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// readPlace reads the first line of a job's state, and returns the rest; nil where there
// is none to go on from.
func (f files) readPlace(job string) (place, *stateReader, error) {
	start := place{Job: job}
	file, err := os.Open(f.state)
	if errors.Is(err, fs.ErrNotExist) {
		return start, nil, nil
	}
	if err != nil {
		return start, nil, err
	}
	r := &stateReader{bufio.NewReaderSize(file, 1<<20), file}
	line, err := r.ReadBytes('\n')
	var p place
	if err != nil || json.Unmarshal(line, &p) != nil || p.Job != job || !f.whole(&p) {
		file.Close()
		return start, nil, nil
	}
	return p, r, nil
}

// whole reports whether a place makes sense, and the partial output and the streams that it
// goes on from are there.
func (f files) whole(p *place) bool {
	if p.Layer < 0 || p.Batch < 0 || p.Width < 0 || p.Width > 0 && len(p.Count) != 3 {
		return false
	}
	if _, err := os.Stat(f.part); err != nil && p.Layer > 0 {
		return false
	}
	for _, names := range f.streams {
		for _, name := range names {
			if _, err := os.Stat(name); err != nil && f.spill {
				return false
			}
		}
	}
	return true
}

// eachSum calls do for the arrays of a layer in the order of the file. Changes are kept.
func eachSum(s *score.LayerStats, do func([]float64) error) error {
	if s == nil {
		return nil
	}
	for _, m := range []*score.Moments{&s.Body, &s.First, &s.Held} {
		stream := []float64{m.Stream.Energy, m.Stream.Weights}
		for _, v := range [][]float64{m.Sum, m.Gram, stream} {
			if err := do(v); err != nil {
				return err
			}
		}
		m.Stream = score.Stream{Energy: stream[0], Weights: stream[1]}
	}
	return nil
}

// remove removes what an unfinished run leaves.
func (f files) remove() {
	names := []string{f.part, f.state, f.next, f.pairs[0], f.pairs[1], f.pairs[2]}
	for _, pair := range f.streams { // a run with less memory may have been there before
		names = append(names, pair[:]...)
	}
	for _, name := range names {
		os.Remove(name)
	}
}
