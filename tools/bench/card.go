//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The card's benchmarks, with so many records each that they are in the proportions of
// the whole sets (2,376, 3,270, 5,153 twice, 250, 256 and 250).
const cardMuSR = 4

var cardRecords = map[string]int{
	"arc_easy": 38, "boolq": 52, "lambada_openai": 82, "lambada_standard": 82,
	"musr_murder_mysteries": cardMuSR, "musr_object_placements": cardMuSR, "musr_team_allocation": cardMuSR,
}

// cardTypes are the precisions of the comparison and the goals of its ratios.
var cardTypes = []struct {
	ours, peer string
	goal       float64
}{{"f32", "float32", 2.5}, {"bf16", "bfloat16", 3}}

// evaluation is a run of an evaluation: its answers by task and record, the metrics, and
// the seconds without loading.
type evaluation struct {
	Answers map[string]map[int][]float64 // log-likelihoods, one a choice
	Metrics map[string]map[string]float64
	seconds float64
	tokens  int64
}

// card measures the five benchmarks as whole processes. lm-eval runs once with each batch
// size, and then with the best alone.
func (b *bench) card(m model) error {
	samples := map[string][]int{}
	for task, n := range cardRecords {
		n = max(1, n*b.engine.records/cardMuSR)
		for i := range n {
			samples[task] = append(samples[task], i)
		}
	}
	threads := slices.Max(b.engine.threads)
	for _, t := range cardTypes {
		name := fmt.Sprintf("card's benchmarks, %s, %d threads", t.ours, threads)
		var ours evaluation
		var oursAlone []float64
		once := func() error {
			e, err := b.evalOurs(name, m, samples, t.ours, threads)
			ours, oursAlone = e, append(oursAlone, e.seconds)
			return err
		}
		if err := once(); err != nil {
			return err
		}
		if b.python() == "" {
			s := b.report.Measurements[name]
			b.report.add(row{What: name, Unit: "s", Ours: s.wall()})
			continue
		}
		best, err := b.bestBatch(name, m, samples, t.peer, threads)
		if err != nil {
			return err
		}
		for i := range b.peerReps - 1 {
			turns := []func() error{once, func() error { return b.evalPeer(&best, name, m, samples, t.peer, threads) }}
			for j := range turns {
				if err := turns[(i+j)%2](); err != nil {
					return err
				}
			}
		}
		b.cardRows(name, best, t.goal, oursAlone, ours)
		b.agreementRows(name, t.ours, ours, best.last)
	}
	return nil
}

// batchRuns are lm-eval's runs with one batch size.
type batchRuns struct {
	size  int
	alone []float64 // seconds of the evaluation alone
	last  evaluation
}

func (r batchRuns) label(name string) string {
	return fmt.Sprintf("%s, lm-eval batch %d", name, r.size)
}

func (b *bench) bestBatch(name string, m model, samples map[string][]int, dtype string, threads int) (batchRuns, error) {
	var best batchRuns
	for _, size := range b.engine.batches {
		r := batchRuns{size: size}
		if err := b.evalPeer(&r, name, m, samples, dtype, threads); err != nil {
			return best, err
		}
		if best.size == 0 || r.alone[0] < best.alone[0] {
			best = r
		}
	}
	return best, nil
}

func (b *bench) cardRows(name string, best batchRuns, goal float64, oursAlone []float64, last evaluation) {
	ours, peer := b.report.Measurements[name], b.report.Measurements[best.label(name)]
	ratio := func(what string, a, p float64) {
		b.report.add(row{
			What: what, Unit: "s", Ours: a, Peer: p, Ratio: p / a,
			Goal: fmt.Sprintf("ratio >= %.1f", goal), holds: p >= goal*a,
		})
	}
	ratio(fmt.Sprintf("%s / lm-eval, batch %d", name, best.size), ours.wall(), peer.wall())
	ratio("  the same, without start and loading", median(oursAlone), median(best.alone))
	b.report.add(row{
		What: "  input tokens, prefixes counted for each choice", Unit: "tokens/s",
		Ours: float64(last.tokens) / median(oursAlone), Peer: float64(last.tokens) / median(best.alone),
	})
	a, p := mebibytes(ours.peak()), mebibytes(peer.peak())
	b.report.add(row{What: "  peak memory", Unit: "MiB", Ours: a, Peer: p, Ratio: a / p, Goal: "ratio <= 0.5", holds: a <= 0.5*p})
}

// agreementRows compares answers and metrics. In float32 they must agree; bfloat16 is
// rounded differently by different programs.
func (b *bench) agreementRows(name, dtype string, ours, peer evaluation) {
	worst, missing, differing := 0.0, 0, 0
	for task, records := range peer.Answers {
		for id, want := range records {
			got := ours.Answers[task][id]
			if len(got) != len(want) {
				missing++
				continue
			}
			for i := range want {
				worst = max(worst, math.Abs(got[i]-want[i]))
			}
		}
	}
	for task, metrics := range peer.Metrics {
		for key, want := range metrics {
			// LAMBADA's perplexity is not counted in records.
			if strings.HasPrefix(key, "acc") && !strings.Contains(key, "stderr") {
				if got, ok := ours.Metrics[task][key]; !ok || math.Abs(got-want) > 1e-9 {
					differing++
				}
			}
		}
	}
	lines := []row{
		{What: "  records without the peer's answers", Ours: float64(missing), Goal: "0", holds: missing == 0},
		{What: "  largest difference of a log-likelihood", Ours: worst, Goal: "<= 0.001", holds: worst <= 1e-3},
		{What: "  accuracies that differ", Ours: float64(differing), Goal: "0", holds: differing == 0},
	}
	for i := range lines {
		if i > 0 && dtype != "f32" {
			lines[i].Goal = ""
		}
		lines[i].What += ", " + name
		b.report.add(lines[i])
	}
}

// evalOurs runs the evaluation with Coppice and reads what it wrote.
func (b *bench) evalOurs(name string, m model, samples map[string][]int, dtype string, threads int) (evaluation, error) {
	if err := b.settle(m.dir); err != nil {
		return evaluation{}, err
	}
	var tasks []string
	for task := range samples {
		if strings.HasPrefix(task, "musr_") {
			task = "musr" // the group of all three
		}
		if !slices.Contains(tasks, task) {
			tasks = append(tasks, task)
		}
	}
	slices.Sort(tasks)
	picked, err := json.Marshal(samples)
	if err != nil {
		return evaluation{}, err
	}
	out := b.output("eval")
	// The drift of bf16 is left out: lm-eval measures none.
	took, _, err := b.run(b.coppice, "eval", m.dir, "--tasks", strings.Join(tasks, ","), "--data-dir", b.engine.data, "--samples", string(picked),
		"--dtype", dtype, "--drift", "0", "--threads", fmt.Sprint(threads), "-o", out, "--log-samples", "--quiet")
	if err != nil {
		return evaluation{}, err
	}
	b.record(name, took)
	return readOurs(out)
}

// readOurs reads the files that eval -o wrote.
func readOurs(dir string) (evaluation, error) {
	e := evaluation{Answers: map[string]map[int][]float64{}, Metrics: map[string]map[string]float64{}}
	var usage struct {
		Seconds float64 `json:"seconds"`
		Tokens  int64   `json:"input_tokens"`
	}
	if err := readOne(filepath.Join(dir, "usage_*.json"), &usage); err != nil {
		return e, err
	}
	e.seconds, e.tokens = usage.Seconds, usage.Tokens
	var results struct {
		Results map[string]map[string]any `json:"results"`
	}
	if err := readOne(filepath.Join(dir, "results_*.json"), &results); err != nil {
		return e, err
	}
	for task, values := range results.Results {
		e.Metrics[task] = map[string]float64{}
		for key, value := range values {
			if number, ok := value.(float64); ok {
				e.Metrics[task][key] = number
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "samples_*.jsonl"))
	if err != nil {
		return e, err
	}
	for _, file := range files {
		name := strings.TrimPrefix(filepath.Base(file), "samples_")
		task := name[:strings.LastIndexByte(name, '_')]
		if e.Answers[task], err = readSamples(file); err != nil {
			return e, fmt.Errorf("%s: %w", file, err)
		}
	}
	return e, nil
}

// readOne reads the one JSON file of a pattern.
func readOne(pattern string, into any) error {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%d files", len(files))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", pattern, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// readSamples reads the log-likelihoods of a samples file by record.
func readSamples(path string) (map[int][]float64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	records := map[int][]float64{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var sample struct {
			DocID int          `json:"doc_id"`
			Resps [][][]string `json:"resps"`
		}
		if err := json.Unmarshal(lines.Bytes(), &sample); err != nil {
			return nil, err
		}
		for _, resp := range sample.Resps {
			if len(resp) != 1 || len(resp[0]) != 2 {
				return nil, fmt.Errorf("record %d: an answer is not a log-likelihood and a flag", sample.DocID)
			}
			value, err := strconv.ParseFloat(resp[0][0], 64)
			if err != nil {
				return nil, err
			}
			records[sample.DocID] = append(records[sample.DocID], value)
		}
	}
	return records, lines.Err()
}

// evalPeer runs the evaluation with lm-eval and adds it to r.
func (b *bench) evalPeer(r *batchRuns, name string, m model, samples map[string][]int, dtype string, threads int) error {
	if err := b.settle(m.dir); err != nil {
		return err
	}
	picked, err := json.Marshal(samples)
	if err != nil {
		return err
	}
	out := b.output("lm-eval.json")
	took, phases, err := b.run(b.python(), script("lm_eval_run.py"), m.dir, "--data", b.engine.data, "--samples", string(picked),
		"--dtype", dtype, "--batch", fmt.Sprint(r.size), "--threads", fmt.Sprint(threads), "--output", out)
	if err != nil {
		return err
	}
	label := r.label(name)
	b.record(label, took)
	b.recordPhases(label, phases)
	all := b.report.Phases[label]
	alone, ok := all[len(all)-1]["evaluate_s"]
	if !ok {
		return errors.New("lm_eval_run.py printed no evaluate_s")
	}
	r.alone = append(r.alone, alone)
	data, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	r.last, err = readPeer(data)
	return err
}

// readPeer reads lm_eval_run.py's output.
func readPeer(data []byte) (evaluation, error) {
	var file struct {
		Answers map[string]map[int][][]any
		Metrics map[string]map[string]float64
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return evaluation{}, fmt.Errorf("lm_eval_run.py: %w", err)
	}
	e := evaluation{Answers: map[string]map[int][]float64{}, Metrics: file.Metrics}
	for task, records := range file.Answers {
		e.Answers[task] = map[int][]float64{}
		for id, answers := range records {
			for _, a := range answers {
				value, ok := a[0].(float64)
				if !ok {
					return e, fmt.Errorf("lm_eval_run.py: %s, record %d: %v is no answer", task, id, a)
				}
				e.Answers[task][id] = append(e.Answers[task][id], value)
			}
		}
	}
	return e, nil
}

// start measures one record, which is mostly the start of the program and loading.
func (b *bench) start(m model) error {
	const name = "start: eval --limit 1, arc_easy, f32"
	threads := slices.Max(b.engine.threads)
	peer := batchRuns{size: 1}
	for i := range b.reps {
		if err := b.settle(m.dir); err != nil {
			return err
		}
		took, _, err := b.run(b.coppice, "eval", m.dir, "--tasks", "arc_easy", "--data-dir", b.engine.data, "--limit", "1", "--threads", fmt.Sprint(threads), "--quiet")
		if err != nil {
			return err
		}
		b.record(name, took)
		if b.python() == "" || i >= b.peerReps {
			continue
		}
		if err := b.evalPeer(&peer, name, m, map[string][]int{"arc_easy": {0}}, "float32", threads); err != nil {
			return err
		}
	}
	ours := b.report.Measurements[name].wall()
	if b.python() == "" {
		b.report.add(row{What: name, Unit: "s", Ours: ours})
		return nil
	}
	theirs := b.report.Measurements[peer.label(name)].wall()
	b.report.add(row{What: name + " / lm-eval", Unit: "s", Ours: ours, Peer: theirs, Ratio: theirs / ours, Goal: "ratio >= 10", holds: theirs >= 10*ours})
	return nil
}
