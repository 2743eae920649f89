//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// report is everything that was measured. No host name and no clock are in it.
type report struct {
	Machine     machine           `json:"machine"`
	Peers       map[string]string `json:"peers,omitempty"`
	Checkpoint  *checkpointInfo   `json:"checkpoint,omitempty"` // of the suite of files
	Repetitions int               `json:"repetitions"`
	// MemoryFloor is the peak, in bytes, reported at the end of the run for a program
	// that does nothing: this program's own, below which no peak can be seen.
	MemoryFloor int64 `json:"memory_floor_bytes"`
	// Small says what made this a quick run, whose goals do not count; empty: nothing.
	Small        string                          `json:"small,omitempty"`
	Rows         []row                           `json:"rows"`
	Measurements map[string]series               `json:"measurements"`
	Phases       map[string][]map[string]float64 `json:"peer_phases_s,omitempty"`
	Bandwidth    []bandwidth                     `json:"bandwidth,omitempty"`
	// Times are the seconds of each turn of programs that stayed loaded.
	Times map[string][]float64 `json:"times_s,omitempty"`
}

type checkpointInfo struct {
	Layers     int   `json:"layers"`
	Parameters int64 `json:"parameters"`
	Bytes      int64 `json:"bytes"`
}

// row is one line of the table. Peer and Ratio are 0 where there is nothing to compare
// with, Goal is empty where there is none.
type row struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit,omitempty"`
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	Goal  string  `json:"goal,omitempty"`
	// OK is absent where there is no goal or the run was too small to tell.
	OK    *bool `json:"ok,omitempty"`
	holds bool
}

func (r *report) add(line row) { r.Rows = append(r.Rows, line) }

// judge settles which goals hold. small says why none can be judged, or is empty.
func (r *report) judge(small string) {
	r.Small = small
	for i := range r.Rows {
		if line := &r.Rows[i]; line.Goal != "" && small == "" {
			line.OK = &line.holds
		}
	}
}

// print writes the table for people.
func (r *report) print(to io.Writer) error {
	m := r.Machine
	fmt.Fprintf(to, "%s, %d cores, %.0f GiB, %s on %s, Linux %s, %s\n", m.CPU, m.Cores, mebibytes(m.MemoryBytes)/1024, m.Filesystem, m.Disk, m.Kernel, m.Go)
	if c := r.Checkpoint; c != nil {
		fmt.Fprintf(to, "checkpoint: %d layers, %d parameters, %.2f GB; ", c.Layers, c.Parameters, float64(c.Bytes)/1e9)
	}
	fmt.Fprintf(to, "medians of %d\n\n", r.Repetitions)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tours\tpeer\tunit\tratio\tgoal\tok")
	for _, line := range r.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line.What, number(line.Ours), number(line.Peer), line.Unit, number(line.Ratio), line.Goal, verdict(line))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Small != "" {
		fmt.Fprintf(to, "\n%s: no goal is judged\n", r.Small)
	}
	return nil
}

func verdict(line row) string {
	switch {
	case line.OK == nil:
		return ""
	case *line.OK:
		return "yes"
	default:
		return "NO"
	}
}

// number shows three digits or all before the point; what is absent is a dash.
func number(x float64) string {
	switch {
	case x == 0:
		return "-"
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x < 0.01:
		return fmt.Sprintf("%.1e", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// write writes everything as JSON.
func (r *report) write(path string) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false) // goals read <=
	if err := encoder.Encode(r); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
