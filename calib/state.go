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

// place is how far a run has come: all layers of the groups before Group are in the
// partial output, and the sums of Group's layers are of the batches before Batch.
type place struct {
	Job    string    `json:"coppice_calibration"` // what is computed, as a digest
	Group  int       `json:"group"`
	Batch  int       `json:"batch"`
	Widths []int     `json:"widths"` // of the layers whose sums follow
	Counts [][]int64 `json:"counts"` // of each of them: tokens of the body, first, held
}

// files are the names of a run's files: the output, the output while it is being made, the
// sums so far, and those while they are being written.
type files struct{ out, part, state, next string }

func filesFor(out string) files {
	dir, base := filepath.Split(out)
	hidden := dir + "." + base + ".coppice-"
	return files{out, hidden + "part", hidden + "state", hidden + "state-next"}
}

// job identifies a computation: two runs with the same have the same state at the same
// place.
func job(head *score.StatsHead, groups [][2]int) (string, error) {
	b, err := json.Marshal(struct {
		Head   *score.StatsHead
		Groups [][2]int
		Law    []int
	}{head, groups, []int{batchTokens, chunkRows}})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// save replaces the state file, at once or not at all.
func (f files) save(p place, layers []*score.LayerStats) error {
	for _, s := range layers {
		p.Widths = append(p.Widths, s.Width)
		p.Counts = append(p.Counts, []int64{s.Body.N, s.First.N, s.Held.N})
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
	for _, s := range layers {
		for _, v := range sums(s) {
			if err == nil {
				err = score.WriteFloats(w, v)
			}
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

// load reads the state file of a job. Where there is none, or it is of another job, the
// place is the beginning.
func (f files) load(job string) (p place, layers []*score.LayerStats, err error) {
	start := place{Job: job}
	file, err := os.Open(f.state)
	if errors.Is(err, fs.ErrNotExist) {
		return start, nil, nil
	}
	if err != nil {
		return start, nil, err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	line, err := r.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &p) != nil || p.Job != job {
		return start, nil, nil
	}
	if len(p.Counts) != len(p.Widths) || p.Group < 0 || p.Batch < 0 {
		return start, nil, nil
	}
	for l, d := range p.Widths {
		s := score.NewLayerStats(d)
		if len(p.Counts[l]) != 3 {
			return start, nil, nil
		}
		s.Body.N, s.First.N, s.Held.N = p.Counts[l][0], p.Counts[l][1], p.Counts[l][2]
		for _, v := range sums(s) {
			if err := score.ReadFloats(r, v); err != nil {
				return start, nil, fmt.Errorf("%s: %w; remove it to begin anew", f.state, err)
			}
		}
		layers = append(layers, s)
	}
	return p, layers, nil
}

// sums lists the arrays of a layer in the order of the file.
func sums(s *score.LayerStats) [][]float64 {
	var all [][]float64
	for _, m := range []*score.Moments{&s.Body, &s.First, &s.Held} {
		all = append(all, m.Sum, m.Gram)
	}
	return all
}

// remove removes what an unfinished run leaves.
func (f files) remove() {
	for _, name := range []string{f.part, f.state, f.next} {
		os.Remove(name)
	}
}
