package lm_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/tokenizer"
)

// realModel opens the shared SmolLM2-135M.
func realModel(t *testing.T, opt lm.Options) *lm.Model {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT CHECKED on the real model: -short")
	}
	m, err := lm.Open(context.Background(), modelPath(shared.Dir(t)), opt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func modelPath(dir string) string {
	return filepath.Join(dir, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

// TestRecordedAnswers compares ids, log-likelihoods, greedy flags and metrics of the
// real model with those of lm-eval 0.4.13.
func TestRecordedAnswers(t *testing.T) {
	evaltest.Golden(t, realModel(t, lm.Options{}), shared.Dir(t), evaltest.F32, nil)
}

// TestRecordedGenerations compares greedy answers to chats, with and without a
// repetition penalty, with those of transformers (tools/peers/record_generation.py).
func TestRecordedGenerations(t *testing.T) {
	m := realModel(t, lm.Options{})
	raw, err := os.ReadFile("testdata/generation.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			User           string
			Penalty        float64 `json:"repetition_penalty"`
			Prompt, Tokens []int32
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	s := m.NewSession()
	for _, c := range file.Cases {
		opt := lm.GenerateOptions{MaxTokens: 40, Sampling: lm.Sampling{RepetitionPenalty: c.Penalty}}
		g, err := s.Chat(context.Background(), []tokenizer.Message{{Role: "user", Content: c.User}}, opt, nil)
		if err != nil {
			t.Fatal(err)
		}
		if g.PromptTokens != len(c.Prompt) || !slices.Equal(g.Tokens, c.Tokens) {
			t.Errorf("%q, penalty %v: %d prompt tokens, then %v\nrecorded %d, then %v", c.User, c.Penalty, g.PromptTokens, g.Tokens, len(c.Prompt), c.Tokens)
		}
	}
}

// TestBF16Drift measures how far the fast precision is from lm-eval's float32 on the
// recorded requests of ARC-Easy.
func TestBF16Drift(t *testing.T) {
	m := realModel(t, lm.Options{Precision: engine.BF16})
	raw, err := os.ReadFile(filepath.Join(shared.Dir(t), "golden", "eval", "smol.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var requests []eval.TokenRequest
	var want []float64
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var r struct {
			Task                  string
			Context, Continuation []int32
			LogLikelihood         float64
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Task == "arc_easy" && len(r.Context) > 0 {
			requests = append(requests, eval.TokenRequest{Context: r.Context, Continuation: r.Continuation})
			want = append(want, r.LogLikelihood)
		}
	}
	var sum, worst, scale float64
	if err := m.Score(context.Background(), requests, func(i int, r eval.TokenResult) error {
		d := math.Abs(r.LogLikelihood - want[i])
		sum, worst, scale = sum+d, max(worst, d), scale+math.Abs(want[i])
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n := float64(len(requests))
	t.Logf("%d requests: mean difference %.4f of a mean log-likelihood of %.1f, largest %.3f", len(requests), sum/n, -scale/n, worst)
	if n == 0 || sum/scale > 0.01 || sum == 0 {
		t.Errorf("the mean difference is %.2g of the log-likelihoods, expected more than 0 and at most 1 %%", sum/scale)
	}
}

// TestPeakMemory loads the real model in a process of its own, scores a long batch, and
// compares the most memory the process ever held with the weights.
func TestPeakMemory(t *testing.T) {
	const child = "COPPICE_TEST_PEAK"
	if p := os.Getenv(child); p != "" {
		precision, err := engine.ParsePrecision(p)
		if err != nil {
			t.Fatal(err)
		}
		m := realModel(t, lm.Options{Precision: precision})
		tokens := slices.Repeat([]int32{1, 504, 3575, 282}, 256)
		for range 3 {
			if err := m.Score(context.Background(), []eval.TokenRequest{{Context: tokens[:1], Continuation: tokens[1:]}},
				func(int, eval.TokenResult) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Printf("parameters %d\n", m.Info().Parameters)
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.Write(status)
		return
	}
	if testing.Short() {
		t.Skip("NOT CHECKED on the real model: -short")
	}
	shared.Dir(t)
	if runtime.GOOS != "linux" {
		t.Skip("NOT CHECKED: peak memory is read from /proc")
	}
	for precision, size := range map[string]float64{"f32": 4, "bf16": 2} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPeakMemory$")
		cmd.Env = append(os.Environ(), child+"="+precision)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		peak, weights := field(t, string(out), "VmHWM:")*1024, field(t, string(out), "parameters")*size
		t.Logf("%s: peak %.0f MB, %.2f times the weights", precision, peak/1e6, peak/weights)
		// Program, tokenizer and the activations of a batch are 80 MB of it, a part that
		// shrinks with larger models.
		if peak > 1.3*weights {
			t.Errorf("%s: peak memory %.0f MB for weights of %.0f MB", precision, peak/1e6, weights/1e6)
		}
	}
}

// field is the number after a name in the lines of out.
func field(t *testing.T, out, name string) float64 {
	t.Helper()
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s in:\n%s", name, out)
	return 0
}
