package lm_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/eval/evaltest"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/lm"
)

// TestRecordedAnswers compares ids, log-likelihoods, greedy flags and metrics of the
// real model with those of lm-eval 0.4.13.
func TestRecordedAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED against lm-eval's recorded answers: -short")
	}
	dir := shared.Dir(t)
	m, err := lm.Open(context.Background(), filepath.Join(dir, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"), lm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	evaltest.Golden(t, m, dir, evaltest.F32, nil)
}
