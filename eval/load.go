package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Load reads a result that Write wrote. The path is a results file, or a directory, of
// which the results file with the latest date is taken. Without the records file beside
// it the result has no samples, and comparisons no test.
func Load(path string) (*Result, error) {
	path, err := resultsPath(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Coppice *struct {
			Version int     `json:"version"`
			Result  *Result `json:"result"`
		} `json:"coppice"`
	}
	if err := readJSON(path, &file); err != nil {
		return nil, err
	}
	if file.Coppice == nil || file.Coppice.Result == nil {
		return nil, fmt.Errorf("%s: it has no section \"coppice\": it was not written by coppice eval", path)
	}
	if file.Coppice.Version != resultsVersion {
		return nil, fmt.Errorf("%s: its version is %d, this program reads %d", path, file.Coppice.Version, resultsVersion)
	}
	r := file.Coppice.Result
	dir, date := filepath.Dir(path), strings.TrimPrefix(filepath.Base(path), "results_")
	if err := readJSON(filepath.Join(dir, "usage_"+date), &r.Usage); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	records := filepath.Join(dir, "records_"+date)
	if err := r.readRecords(records); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r, nil
}

// resultsPath resolves a directory to its latest results file.
func resultsPath(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return path, nil
	}
	found, err := filepath.Glob(filepath.Join(escapeGlob(path), "results_*.json"))
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%s: it holds no results_*.json; name a directory that coppice eval -o wrote, once it is finished", path)
	}
	return slices.Max(found), nil // dates sort as text
}

// escapeGlob makes a path that filepath.Glob takes literally.
func escapeGlob(path string) string {
	return strings.NewReplacer(`*`, `[*]`, `?`, `[?]`, `[`, `[[]`).Replace(path)
}

// readRecords fills in the samples of a result's tasks.
func (r *Result) readRecords(path string) error {
	var file records
	if err := readJSON(path, &file); err != nil {
		return err
	}
	if file.Format != recordsFormat || file.Version != resultsVersion {
		return fmt.Errorf("%s: it is not a records file of version %d", path, resultsVersion)
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		tr, ok := file.Tasks[t.Name]
		if !ok {
			continue
		}
		if err := tr.check(len(t.Metrics)); err != nil {
			return fmt.Errorf("%s: task %s: %w", path, t.Name, err)
		}
		t.Samples = make([]Sample, len(tr.DocIDs))
		for j := range t.Samples {
			s := Sample{DocID: tr.DocIDs[j], Fingerprint: tr.Fingerprints[j]}
			for k := range t.Metrics {
				s.Scores = append(s.Scores, tr.Scores[k][j])
				s.Weights = append(s.Weights, tr.Weights[k][j])
			}
			t.Samples[j] = s
		}
	}
	return nil
}

// check reports columns that do not fit together.
func (tr *taskRecords) check(metrics int) error {
	if len(tr.Scores) != metrics || len(tr.Weights) != metrics {
		return fmt.Errorf("scores of %d metrics and weights of %d, where the results have %d", len(tr.Scores), len(tr.Weights), metrics)
	}
	for _, column := range append(slices.Clone(tr.Scores), tr.Weights...) {
		if len(column) != len(tr.DocIDs) || len(tr.Fingerprints) != len(tr.DocIDs) {
			return errors.New("its columns have different lengths")
		}
	}
	return nil
}

func readJSON(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
