package cpu_test

import (
	"context"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/engine/enginetest"
)

func open(t *testing.T, m *enginetest.Model, opt enginetest.Options) engine.Engine {
	t.Helper()
	e, err := cpu.New(context.Background(), m.Transformer, m, cpu.Options{
		Precision: opt.Precision, Threads: max(opt.Threads, 1), MaxLength: opt.MaxLength,
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { enginetest.Run(t, open) }

func openLayerwise(t *testing.T, m *enginetest.Model, opt enginetest.Options) engine.Layerwise {
	t.Helper()
	l, err := cpu.NewLayerwise(context.Background(), m.Transformer, m, cpu.Options{
		Precision: opt.Precision, Threads: max(opt.Threads, 1), MaxLength: opt.MaxLength,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayerwise(t *testing.T) { enginetest.RunLayerwise(t, open, openLayerwise) }
