// Package enginetest is the suite that every engine passes: that it computes what
// transformers computes, for every family; that results do not depend on batches,
// shared prefixes or threads; that decoding agrees with scoring; that what is
// equivalent gives equal results; and that it refuses what it must.
//
// The models are tiny and made by a formula (NewModel), so the suite needs no files and
// runs in seconds. An engine's test calls Run with a function that opens it.
package enginetest

import (
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// Options is how a test wants a model opened. The zero value is float32 on one thread.
type Options struct {
	Precision engine.Precision
	Threads   int // 0: 1
	MaxLength int // 0: the model's
}

// Opener opens a model in the engine under test, or fails the test.
type Opener func(t *testing.T, m *Model, opt Options) engine.Engine

// Run runs the whole suite.
func Run(t *testing.T, open Opener) {
	t.Run("families", func(t *testing.T) { testFamilies(t, open) })
}
