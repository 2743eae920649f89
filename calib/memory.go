package calib

import (
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
)

// What a run needs is reckoned before it begins, in bytes, from sizes of h hidden values, d
// neurons of the widest layer and k of the widest that is refitted. TestMemory holds the
// reckoning to what is measured. The collector adds a share of its own.

// streamBytes is the size of the residual streams of so many tokens.
func streamBytes(m *arch.Transformer, tokens int64) int64 { return 4 * int64(m.Hidden) * tokens }

// widest is the width of the widest layer.
func widest(m *arch.Transformer) (d int64) {
	for _, l := range m.Layers {
		d = max(d, int64(l.Width))
	}
	return d
}

// engineValues is how many gates, and how many activations, the engine computes at a time.
const engineValues = 1 << 20

// headRows is of how many positions the engine holds both models' logits at a time on the way back through the head.
const headRows = 64

// valueBytes is the size of a weight that is multiplied in a precision.
func valueBytes(p engine.Precision) int64 {
	if p == engine.F32 {
		return 4
	}
	return 2
}

// runBytes is what running a layer takes: its weights, and what is computed of a
// batch: by attention and MLP, and of activations that are added up, turned round and packed.
func runBytes(m *arch.Transformer, precision engine.Precision) int64 {
	h, d := int64(m.Hidden), widest(m)
	queries, keys := int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	weights := h*(2*queries+2*keys) + 3*h*d
	work := batchTokens*(6*h+2*queries+2*keys) + 2*min(batchTokens*d, engineValues) + 3*chunkRows*d
	return valueBytes(precision)*weights + 4*work
}

// collectBytes is about the most memory that Collect takes for a layer: what running it
// takes, the activations of a batch, and the sums of three classes, a triangle each.
func collectBytes(m *lm.Layerwise) int64 {
	d := widest(m.Engine().Model())
	return runBytes(m.Engine().Model(), m.Precision()) + 4*batchTokens*d + 12*d*(d+3)
}

// refitBytes is about the most memory that Refit takes for a layer.
func refitBytes(from *lm.Layerwise, p *plan.Plan, opt *RefitOptions) int64 {
	m := from.Engine().Model()
	h, k := int64(m.Hidden), int64(0)
	for _, l := range p.Layers {
		if l.Prunes(m.Layers[l.Layer].Width) {
			k = max(k, int64(len(l.Keep)))
		}
	}
	parts := int64(1) // of the target
	if opt.Target == plan.StreamTarget {
		parts = 2
	}
	// The MLP that stays as it is read and as it is run, and of a batch its target, the part to
	// repair, what one stream and another come to, and activations with weights.
	fixed := runBytes(m, from.Precision()) + 2*4*3*h*k + 4*batchTokens*(4*h+k)
	most := solveBytes(h, k, parts)
	if opt.Rounds > 0 {
		// Two MLPs that run forward and backward, four matrices each, and their batches.
		fixed += 2*4*4*h*k + 4*batchTokens*(10*k+3*h)
		most = max(most, sumBytes(h, k, parts)+stepBytes(h, k))
	}
	if opt.Attention {
		q := int64(m.Heads * m.HeadDim)
		fixed += 2 * 4 * h * q
		most = max(most, solveBytes(h, q, 2))
	}
	return fixed + most
}

// sumBytes is the size of targets: of three classes, a triangle and a product with each part
// of the target.
func sumBytes(h, n, parts int64) int64 { return 3 * (4*n*(n+1) + 8*h*n*parts) }

// solveBytes is the most that is held when n inputs are fitted to targets: the sums; their
// means for the fit and for held-back text; what is factorised, and the factor's transpose;
// and of the size of the solution where the ridge pulls to, the best so far, the next, and
// its change.
func solveBytes(h, n, parts int64) int64 {
	return sumBytes(h, n, parts) + 2*(8*n*n+8*h*n*parts) + 2*8*n*n + 4*8*h*n
}

// stepBytes is the most that is held beside the sums when gate and up take a step: the
// curvature by 2n slopes, its factor's transpose and the inputs' second moment; the gradient
// and the step; the two solutions of down_proj so far; and the weights of the step and of what is tried.
func stepBytes(h, n int64) int64 {
	return 2*8*4*n*n + 8*h*h + 2*8*2*h*n + 2*8*h*n + 2*4*2*h*n
}

// StepsMemory is the least Options.Memory, in bytes, with which RefitPredictions refits MLPs of so
// many neurons of a dense model m, which runs in the given precision: widths has one number for each of its layers,
// 0 where one stays as it is. It is that for DefaultStepTokens and as much held-back text as is looked at, in rows of
// at most 1,024 tokens: less text takes less, and longer rows more, as a move looks at as many
// batches of them.
func StepsMemory(m *arch.Transformer, widths []int, precision engine.Precision) int64 {
	return stepsBytes(m, widths, precision, DefaultStepTokens/stepMoves, judgedTokens)
}

// stepsBytes is StepsMemory where a move looks at so many tokens, and a step is judged on so many:
// the head in both directions, and logits; the dense model's layer, the widest of the student's, its transposes
// and what they are made from, which is float32, and what runs there and back; of an MLP, what is read, its
// course, and bytes on their way; sums of a layer, and what its step is solved from; and streams, of the
// held-back text in both models, or in one, and of a move's in both, with at
// most as many gradients again.
func stepsBytes(m *arch.Transformer, widths []int, precision engine.Precision, share, judged int64) int64 {
	value := valueBytes(precision)
	h, q, kv := int64(m.Hidden), int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	var k, d int64 // most neurons of a layer that is refitted, and of one of the student's
	for i, w := range widths {
		k, d = max(k, int64(w)), max(d, int64(w))
		if w == 0 {
			d = max(d, int64(m.Layers[i].Width))
		}
	}
	student := (4+2*value)*(h*(2*q+2*kv)+3*h*d) + 4*(batchTokens*(7*h+3*(q+2*kv))+5*min(batchTokens*d, engineValues))
	sums := 8*(3*h*k+h*(h+1)+3*k*(k+1)/2) + 8*(2*h*h+2*k*k+h*k)
	streams := streamBytes(m, judged+max(judged, 3*share))
	logits := headRows * int64(m.Vocab) * 2 * 4
	if precision != engine.F32 {
		logits += logits / 2 // and rounded
	}
	return withGarbage(2*value*int64(m.Vocab)*h + logits + runBytes(m, precision) + student + 4*4*3*h*k + sums + streams)
}

// withGarbage adds a fifth: what the program lets garbage grow to before it is collected.
func withGarbage(bytes int64) int64 { return bytes * 6 / 5 }

// gigabytes is a size as --calib-memory takes it, rounded up.
func gigabytes(bytes int64) string { return fmt.Sprintf("%.1fGB", math.Ceil(float64(bytes)/1e8)/10) }
