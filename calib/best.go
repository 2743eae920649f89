package calib

import (
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
)

// DefaultSteps go round 131,072 tokens of text once, its held-back tenth left out.
const DefaultSteps = 7

// MaxSteps is more steps than anyone can want.
const MaxSteps = 10_000

// BestSteps returns how many steps the preset best takes with RefitPredictions, where nobody
// says: DefaultSteps, or 0 where they are not to be had, with the reason. widths are the neurons
// that stay in each layer, 0 of layers that are not pruned; precision is what the model runs in;
// limit is the memory in bytes, 0 for DefaultMemory. It depends on nothing else, so that the same command makes the same model everywhere.
func BestSteps(m *arch.Transformer, widths []int, precision engine.Precision, limit int64) (int, error) {
	if limit == 0 {
		limit = DefaultMemory
	}
	if err := plainMLPs(m); err != nil {
		return 0, err
	}
	if need := StepsMemory(m, widths, precision); need > limit {
		return 0, fmt.Errorf("it takes %s of memory, and --calib-memory allows %s; give --calib-memory %[1]s, if there is as much", gigabytes(need), gigabytes(limit))
	}
	return DefaultSteps, nil
}

// HoldsBack reports whether a calibration text, files or directories as Collect is given them, has
// documents enough that some are held back, by which RefitPredictions judges its steps.
func HoldsBack(sources []string) (bool, error) {
	documents, err := readSources(sources)
	return len(documents) >= heldBack, err
}
