// Package study measures a grid of pruned models: which ratio, by which method, is worth
// it. A study file names models, ratios, methods, seeds, precisions and tasks; each
// combination is a cell, and what was measured of a cell is one record, a line of an
// append-only ledger. Records hold all that a report or a model card says, so that
// those need neither the models nor the texts.
package study

import (
	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/speed"
)

// LedgerVersion is the version of the ledger's lines that this package writes.
const LedgerVersion = 1

// Status says how a cell ended.
type Status string

// A failed cell is run again by the next run of the study; a finished one never is.
const (
	Done   Status = "done"
	Failed Status = "failed"
)

// Dense is the method of the cell that measures a model as it came.
const Dense = "dense"

// Cell is one variant of one model, and the conditions it is measured under. Its ID is a
// hash of everything that the measured values depend on.
type Cell struct {
	ID    string `json:"id"`    // 16 hexadecimal digits
	Model string `json:"model"` // as the study file names it
	// BaseModel is the hub name (owner/name) of the model where it is known.
	BaseModel  string  `json:"base_model,omitempty"`
	Method     string  `json:"method"`               // Dense, or a method of `coppice prune`: maxabs, ..., best
	Ratio      float64 `json:"ratio,omitempty"`      // share of each MLP's neurons that goes, as asked for
	Width      int     `json:"width,omitempty"`      // neurons that stay, where the file gives widths
	Expansion  float64 `json:"expansion,omitempty"`  // intermediate_size / hidden_size, where it gives those
	Allocation string  `json:"allocation,omitempty"` // uniform, global or measured
	Align      int     `json:"align,omitempty"`
	Steps      int     `json:"steps,omitempty"` // by which best refits all layers together
	Seed       uint64  `json:"seed"`
	DType      string  `json:"dtype"` // precision of the computation: f32 or bf16
	// Fingerprints of what goes in.
	ModelFingerprint string            `json:"model_fingerprint"`
	Calibration      string            `json:"calibration,omitempty"` // of the calibration text and its sizes
	Data             map[string]string `json:"data"`                  // task -> fingerprint of the records asked
}

// Record is what was measured of one cell.
type Record struct {
	Version int    `json:"version"`
	Cell    Cell   `json:"cell"`
	Status  Status `json:"status"`
	Error   string `json:"error,omitempty"` // of a failed cell

	Shape *Shape `json:"shape,omitempty"`
	Tasks []Task `json:"tasks,omitempty"`
	// Groups are means over the tasks of a benchmark (musr), as eval gives them.
	Groups []eval.GroupResult `json:"groups,omitempty"`
	Curves *Curves            `json:"curves,omitempty"`
	// Conditions are those of the evaluation of Tasks; nil where nothing was evaluated.
	Conditions *Conditions `json:"conditions,omitempty"`
	// Commands made the numbers, in order, as one would type them.
	Commands []string `json:"commands,omitempty"`
	// Run is what differs from one run to the next: times, memory, energy, the machine.
	// Everything outside it is the same in every run of the same cell.
	Run *Run `json:"run,omitempty"`
}

// Shape is the variant's size and what of the model stayed.
type Shape struct {
	Family        string `json:"family"`
	Layers        int    `json:"layers"`
	Hidden        int    `json:"hidden_size"`
	DenseWidth    int    `json:"dense_intermediate_size"`
	Widths        []int  `json:"intermediate_sizes"` // one a layer
	Parameters    int64  `json:"parameters"`
	MLPParameters int64  `json:"mlp_parameters"`
	Bytes         int64  `json:"bytes"` // of the weights as stored
	StoredDType   string `json:"stored_dtype"`
	// Kept are the neurons that stay, one bit string a layer: bit i%8 of byte i/8 is
	// neuron i. Empty for a dense model.
	Kept [][]byte `json:"kept,omitempty"`
}

// Curves are a method's layer errors: the squared error of the MLP's output after the
// refit over the energy of the residual stream there, by how many neurons stay.
type Curves struct {
	Layers []LayerCurve `json:"layers"`
}

// LayerCurve is one layer's error at a few widths, ascending.
type LayerCurve struct {
	Kept  []int     `json:"kept"`
	Error []float64 `json:"error"`
}

// Task is the result of one task, with each record's score in a compact form, from
// which paired tests are made.
type Task struct {
	eval.TaskResult
	// Docs are the indexes of the records; Scores and Weights hold one row a metric, as
	// eval.Sample defines them. A row of weights that are all 1 is null.
	Docs    []int       `json:"docs"`
	Scores  [][]float64 `json:"scores"`
	Weights [][]float64 `json:"weights"`
}

// Comparison is a line of the ledger beside the records: the paired tests of a cell against
// another one, the dense model or the same size made by maxabs.
type Comparison struct {
	Version int        `json:"version"`
	Cell    string     `json:"cell"`    // ID
	Against string     `json:"against"` // ID
	Rows    []eval.Row `json:"rows"`    // Cells: the reference, then the cell
}

// Run is what a run of a cell took, and where.
type Run struct {
	Started string  `json:"started"` // RFC 3339, UTC
	Seconds float64 `json:"seconds"`
	Coppice string  `json:"coppice"` // version of the program
	Host    Host    `json:"host"`
	// LoadSeconds is the time until the model can run, PeakMemory the largest resident
	// set of a process that ran it.
	LoadSeconds float64 `json:"load_seconds,omitempty"`
	PeakMemory  int64   `json:"peak_memory_bytes,omitempty"`
	Speed       []Speed `json:"speed,omitempty"`
	Energy      *Energy `json:"energy,omitempty"`
	// Steps are the times of the cell's commands, in their order.
	Steps []Step `json:"steps,omitempty"`
}

// Step is one command of a cell.
type Step struct {
	Command string  `json:"command"`
	Seconds float64 `json:"seconds"`
	Peak    int64   `json:"peak_memory_bytes,omitempty"`
}

// Host says what the numbers were measured on.
type Host struct {
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Threads int    `json:"threads"`
	Memory  int64  `json:"memory_bytes,omitempty"`
	Level   string `json:"kernels"` // the kernels' instruction set: avx512bf16, ..., generic
}

// Speed is one measurement of throughput.
type Speed = speed.Result

// Energy is what the cell's evaluations drew, as the meter read it. Domains that no meter
// read are not there; an estimate is one only where Estimate is true. Tokens are the model
// input tokens of those evaluations.
type Energy = energy.Reading

// Domain is the reading of one part of the machine.
type Domain = energy.Domain
