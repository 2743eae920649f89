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
// the sums so far, those while they are being written, and the residual streams before
// and after a layer, empty where these are in memory.
type files struct {
	out, part, state, next string
	streams                [2]string
}

func filesFor(out string) files {
	hidden := hiddenName(out)
	return files{out: out, part: hidden + "part", state: hidden + "state", next: hidden + "state-next"}
}

func hiddenName(out string) string {
	dir, base := filepath.Split(out)
	return dir + "." + base + ".coppice-"
}

// spill gives the residual streams files.
func (f *files) spill() {
	for i := range f.streams {
		f.streams[i] = fmt.Sprintf("%sstreams-%d", hiddenName(f.out), i)
	}
}

func (f *files) spills() bool { return f.streams[0] != "" }

// job identifies the computation: two runs with the same have the same state at the same
// place.
func (c *collector) job() (string, error) {
	b, err := json.Marshal(struct {
		Head   *score.StatsHead
		Spills bool
		Law    []int
	}{&c.head, c.files.spills(), []int{batchTokens, chunkRows}})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// save replaces the state file, at once or not at all: a line that says what follows, the
// sums of the layer that is being run (stats, nil where there are none), and the residual
// streams where they are in memory.
func (f files) save(p place, stats *score.LayerStats, memory []float32) error {
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
	if err == nil {
		err = writeValues(w, memory)
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

// load opens the streams and reads the state of a job. Where there is none, or it is of
// another job, the place is the beginning.
func (c *collector) load(job string, hidden int) (place, error) {
	p, r, err := c.files.readPlace(job)
	if err != nil {
		return p, err
	}
	if r != nil {
		defer r.Close()
	}
	if c.streams, err = openStreams(c.files.streams, c.text.tokens(), hidden, r != nil); err != nil || r == nil {
		return p, err
	}
	if p.Width > 0 {
		c.stats = score.NewLayerStats(p.Width)
		c.stats.Body.N, c.stats.First.N, c.stats.Held.N = p.Count[0], p.Count[1], p.Count[2]
	}
	err = eachSum(c.stats, func(v []float64) error { return score.ReadFloats(r, v) })
	if err == nil {
		err = readValues(r, c.streams.memory)
	}
	if err != nil {
		c.streams.close()
		return p, fmt.Errorf("%s: %w; remove it to begin anew", c.files.state, err)
	}
	return p, nil
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

// whole reports whether a place makes sense and the streams that it goes on from are
// there.
func (f files) whole(p *place) bool {
	if p.Layer < 0 || p.Batch < 0 || p.Width < 0 || p.Width > 0 && len(p.Count) != 3 {
		return false
	}
	for _, name := range f.streams {
		if name == "" {
			continue
		}
		if _, err := os.Stat(name); err != nil {
			return false
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
	g := f
	g.spill() // a run with less memory may have been there before
	for _, name := range []string{f.part, f.state, f.next, g.streams[0], g.streams[1]} {
		os.Remove(name)
	}
}
