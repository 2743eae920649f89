package study

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/plan"
)

// The rough model of time that stands in where the ledger has no cell to go by: English
// text, and what a core of a laptop does with AVX2 in f32, or in bf16 where it can.
const (
	bytesPerToken  = 4
	flopsPerCore   = 80e9 // in f32; bf16 is taken to be twice as fast
	bytesPerSecond = 10e9 // of memory, which bounds decoding
)

// Estimate is what a study will need.
type Estimate struct {
	Cells []CellEstimate `json:"cells"`
	// Seconds are of the cells that are not finished, one after another.
	Seconds float64 `json:"seconds"`
	Memory  int64   `json:"memory_bytes"` // of the cell that needs most
	Host    int64   `json:"host_memory_bytes,omitempty"`
	Disks   []Disk  `json:"disks"`
}

// CellEstimate is what a cell will need. Time and memory are rough unless Measured says
// that other cells of the ledger were gone by.
type CellEstimate struct {
	Cell     Cell    `json:"cell"`
	Status   Status  `json:"status,omitempty"` // of its record, if it has one
	Seconds  float64 `json:"seconds"`
	Measured bool    `json:"from_measurements"`
	Disk     int64   `json:"disk_bytes"` // of the pruned model
	Memory   int64   `json:"memory_bytes"`
}

// Disk is what a directory will need, and what there is.
type Disk struct {
	Dir  string `json:"dir"`
	Need int64  `json:"need_bytes"`
	Free int64  `json:"free_bytes"` // -1 where the system does not say
	// state is set of the study's own directory where pruned models live elsewhere.
	state bool
}

// Short reports whether the disk is too small.
func (d *Disk) Short() bool { return d.Free >= 0 && d.Need > d.Free }

// SpaceError says that a disk is too small for a study.
type SpaceError struct{ Disk }

func (e *SpaceError) Error() string {
	next := "name another disk with the key \"scratch\" or --scratch, or free some"
	if e.state {
		next = "free some, or move the study file to another disk"
	}
	return fmt.Sprintf("%s: the study needs %.1f MB there, and %.1f MB are free; %s", e.Dir, float64(e.Need)/1e6, float64(e.Free)/1e6, next)
}

// FreeSpace returns how much can be written to the disk that a directory is on, or will be
// when it is made; -1 where the system does not say.
func FreeSpace(dir string) (int64, error) {
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	n, err := diskFree(dir)
	if errors.Is(err, errors.ErrUnsupported) {
		return -1, nil
	}
	return n, err
}

// NewEstimate says what a study will need, from its ledger where it has one.
func NewEstimate(s *Study, o Options) (*Estimate, error) {
	r, err := newRun(s, o)
	if err != nil {
		return nil, err
	}
	ledger, err := r.store.read()
	if err != nil {
		return nil, err
	}
	e := &Estimate{Host: o.Host.Memory}
	var pending []*gridCell
	for i := range r.cells {
		c := &r.cells[i]
		ce := r.estimate(c, ledger)
		if rec := ledger.Record(c.ID); rec != nil {
			ce.Status = rec.Status
		}
		e.Cells = append(e.Cells, ce)
		if ce.Status != Done {
			pending = append(pending, c)
			e.Seconds += ce.Seconds
			e.Memory = max(e.Memory, ce.Memory)
		}
	}
	e.Disks, err = r.disks(pending)
	return e, err
}

// checkSpace refuses cells for which a disk is too small.
func (r *run) checkSpace(pending []*gridCell, l *Ledger) error {
	disks, err := r.disks(pending)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.Short() {
			return &SpaceError{d}
		}
	}
	return nil
}

// disks is what cells need of the disks they write to: pruned models one at a time, or all
// if they are kept, and statistics and scores, which stay.
func (r *run) disks(pending []*gridCell) ([]Disk, error) {
	var scratch, state int64
	for _, c := range pending {
		if n := r.variantBytes(c); r.Keep {
			scratch += n
		} else {
			scratch = max(scratch, n)
		}
	}
	made := map[string]bool{}
	for _, c := range pending {
		file := r.sharedFile(c, "stats.safetensors")
		if !usesStats(c.Method, c.Allocation) || made[file] || exists(file) {
			continue
		}
		made[file] = true
		for _, d := range c.model.spec.Widths {
			d := int64(d)
			state += 12*d*(d+3) + 48 // score.Stats
		}
		// Residual streams of the text, in files where they do not fit in memory.
		state += 8 * int64(r.Calibration.Tokens) * int64(c.model.spec.Hidden)
	}
	disks := []Disk{{Dir: r.ScratchDir(), Need: scratch}, {Dir: r.StateDir(), Need: state, state: true}}
	if same, err := sameDisk(disks[0].Dir, disks[1].Dir); err != nil {
		return nil, err
	} else if same {
		disks = []Disk{{Dir: r.ScratchDir(), Need: scratch + state}}
	}
	for i := range disks {
		var err error
		if disks[i].Free, err = r.Free(disks[i].Dir); err != nil {
			return nil, fmt.Errorf("%s: %w", disks[i].Dir, err)
		}
	}
	return disks, nil
}

// spec is the shape of a cell's model after pruning. Widths that differ by layer are taken
// to be the mean.
func (c *gridCell) spec() arch.Spec {
	s := c.model.spec
	widths := slices.Clone(s.Widths)
	for l, d := range widths {
		switch {
		case c.Width != 0:
			widths[l] = min(d, c.Width)
		case c.Expansion != 0:
			widths[l] = int(min(float64(d), math.Round(c.Expansion*float64(s.Hidden))))
		case c.Ratio != 0:
			widths[l] = plan.WidthAt(c.Ratio, d, max(1, c.Align))
		}
	}
	return s.WithWidths(widths)
}

// variantBytes is the size of a cell's pruned model, at the model's bytes a parameter.
func (r *run) variantBytes(c *gridCell) int64 {
	if c.Method == Dense || exists(r.variant(c)) {
		return 0
	}
	pruned := c.spec()
	_, before := c.model.spec.Parameters()
	_, after := pruned.Parameters()
	const files = 20 << 20 // config, tokenizer, plan
	n := int64(float64(c.model.bytes)/float64(before)*float64(after)) + files
	if c.Steps > 0 { // four files of weights in float32: of the last step, of two moves, and the next
		roles, _ := pruned.Parameters()
		n += 4 * 4 * roles[arch.MLP]
	}
	return n
}

// estimate says what a cell will need. Time is that of finished cells that did the same
// work, by their parameters, or else rough.
func (r *run) estimate(c *gridCell, l *Ledger) CellEstimate {
	e := CellEstimate{Cell: c.Cell, Disk: r.variantBytes(c)}
	spec := c.spec()
	_, parameters := spec.Parameters()
	width, speed := 4.0, flopsPerCore
	if c.DType != "f32" {
		width, speed = 2, 2*flopsPerCore
	}
	const program = 200 << 20
	e.Memory = int64(width*float64(parameters)) + program
	if usesStats(c.Method, c.Allocation) {
		d := int64(slices.Max(c.model.spec.Widths))
		e.Memory = max(e.Memory, 24*d*d+program) // a layer's sums, and a factor of them
	}
	if seconds, n := r.past(&c.Cell, l); n > 0 {
		e.Seconds, e.Measured = seconds*float64(parameters), true
		return e
	}
	cores := float64(max(1, r.Threads))
	tokens := float64(r.inputs.asked) / bytesPerToken
	if p := r.Speed; p != nil {
		for _, b := range p.Batch {
			for _, n := range p.Prompts {
				times := float64(p.Repeat) + 1 // numbers of a file may be of any size
				tokens += times * float64(b) * float64(n)
				e.Seconds += times * float64(p.Decode) * width * float64(parameters) / bytesPerSecond
			}
		}
	}
	e.Seconds += 2 * float64(parameters) * tokens / (speed * cores)
	return e
}

// past is the mean time by the parameter of finished cells under the same conditions.
func (r *run) past(c *Cell, l *Ledger) (seconds float64, n int) {
	same := func(o *Cell) bool {
		if o.DType != c.DType || len(o.Data) != len(c.Data) {
			return false
		}
		for task, fingerprint := range c.Data {
			if o.Data[task] != fingerprint {
				return false
			}
		}
		return true
	}
	for i := range l.Records {
		rec := &l.Records[i]
		if rec.Status == Done && rec.Run != nil && rec.Shape != nil && rec.Shape.Parameters > 0 && same(&rec.Cell) {
			seconds += rec.Run.Seconds / float64(rec.Shape.Parameters)
			n++
		}
	}
	return seconds / float64(max(1, n)), n
}

// sameDisk reports whether two directories are, or will be, on one disk. Where the system
// does not say they are taken to be.
func sameDisk(a, b string) (bool, error) {
	var dev [2]any
	for i, dir := range []string{a, b} {
		for !exists(dir) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
		}
		st, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		dev[i] = deviceOf(st)
	}
	return dev[0] == dev[1], nil
}
