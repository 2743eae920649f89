//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseBenchmark(t *testing.T) {
	for _, tt := range []struct {
		line, what string
		metrics    map[string]float64
	}{
		{"BenchmarkMulBF16/512x576x1536/avx512bf16/threads=1-2  10  1234 ns/op  467.5 GFLOP/s  87.50 %peak\n",
			"bf16 512x576x1536 avx512bf16 threads=1", map[string]float64{"ns/op": 1234, "GFLOP/s": 467.5, "%peak": 87.5}},
		{"ok  \tgithub.com/coppice-lm/coppice/engine/cpu/kernel\t1.2s\n", "", nil},
		{"BenchmarkMulF32/512x576x1536/avx2/threads=1-2  10  many ns/op\n", "", nil},
	} {
		what, metrics, ok := parseBenchmark(tt.line)
		if what != tt.what || ok != (tt.metrics != nil) || !cmp.Equal(metrics, tt.metrics) {
			t.Errorf("%q: %q %v %t", tt.line, what, metrics, ok)
		}
	}
}

func TestIntList(t *testing.T) {
	var l intList
	if err := l.Set("1,16"); err != nil || l.String() != "1,16" {
		t.Errorf("%v %v", l, err)
	}
	for _, bad := range []string{"", "1,", "0", "-2", "x"} {
		if err := l.Set(bad); err == nil {
			t.Errorf("%q is accepted as %v", bad, l)
		}
	}
}

func TestChoose(t *testing.T) {
	steps := []step{{name: "a"}, {name: "b"}, {name: "c"}}
	got, err := choose(steps, []string{"c", "a"})
	if err != nil || len(got) != 2 || got[0].name != "a" || got[1].name != "c" {
		t.Errorf("%v %v", got, err)
	}
	for _, names := range [][]string{{"d"}, {"a", "a"}, {""}} {
		if got, err := choose(steps, names); err == nil {
			t.Errorf("%q chooses %v", names, got)
		}
	}
}

// The answers of both programs are read into the same form, and compared by record.
func TestAgreement(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"usage_x.json":            `{"seconds": 2.5, "input_tokens": 40}`,
		"results_x.json":          `{"results": {"boolq": {"acc,none": 1, "acc_stderr,none": "N/A"}}}`,
		"samples_boolq_x.jsonl":   `{"doc_id": 3, "resps": [[["-1.5", "False"]], [["-0.25", "True"]]]}` + "\n",
		"records_x.json":          `{}`,
		"samples_musr_a_x.jsonl":  `{"doc_id": 0, "resps": [[["-7", "False"]]]}` + "\n",
		"samples_other_y.parquet": ``,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ours, err := readOurs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if ours.seconds != 2.5 || ours.tokens != 40 {
		t.Errorf("%v s, %d tokens", ours.seconds, ours.tokens)
	}
	want := map[string]map[int][]float64{"boolq": {3: {-1.5, -0.25}}, "musr_a": {0: {-7}}}
	if diff := cmp.Diff(want, ours.Answers); diff != "" {
		t.Error(diff)
	}
	peer, err := readPeer([]byte(`{"answers": {"boolq": {"3": [[-1.5, false], [-0.2505, true]], "4": [[-1, true]]}},
		"metrics": {"boolq": {"acc,none": 0.5, "acc_stderr,none": 0.5}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var b bench
	b.agreementRows("n", "f32", ours, peer)
	for i, want := range []struct {
		value float64
		holds bool
	}{{1, false}, {0.0005, true}, {1, false}} {
		got := b.report.Rows[i]
		if got.holds != want.holds || got.Ours < want.value-1e-9 || got.Ours > want.value+1e-9 {
			t.Errorf("%+v, want %v", got, want)
		}
	}
}

// Our side of the jobs computes what the peers are given to compute.
func TestNumbers(t *testing.T) {
	// The first values of torch_attention.py's numbers(), whose arithmetic is of 32 bits.
	for _, tt := range []struct {
		first uint32
		want  []float32
	}{{0, []float32{-1, 0.23606789, -0.5278641}}, {1_000_000_007, []float32{-0.8045658, 0.43150222}}} {
		got := numbers(len(tt.want), tt.first)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// What torch printed counts only where both programs computed the same.
func TestReadTorchCalib(t *testing.T) {
	const line = `{"seconds": {"sums": 2, "obs": 1, "refit": 0.5}, "same_neurons": %s, "error_coppice": %s, "error_torch": 0.2}`
	got, err := readTorchCalib([]byte("a warning\n" + fmt.Sprintf(line, "0.99", "0.2001") + "\n"))
	if err != nil || got["sums"] != 2 || got["refit"] != 0.5 {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{fmt.Sprintf(line, "0.9", "0.2"), fmt.Sprintf(line, "0.99", "0.21"), "{}", "nothing"} {
		if _, err := readTorchCalib([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
