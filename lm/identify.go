package lm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/parallel"
	"github.com/coppice-lm/coppice/tensor"
)

// Identify is what ModelInfo.Weights says of a checkpoint, without making it run: whoever
// has the weights finds out by it whether a result is theirs. It reads all of them.
func Identify(ctx context.Context, c *checkpoint.Checkpoint, threads int) (string, error) {
	model, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return "", fmt.Errorf("%s: config.json: %w", c.Path, err)
	}
	return identify(ctx, c, model, threads)
}

// identify returns a digest of all weights and of the computation that the config makes of
// them. Unlike checkpoint's Fingerprint, which samples the weights, it tells models apart
// that differ in a single value: results of one must never be taken for those of the other.
func identify(ctx context.Context, c *checkpoint.Checkpoint, model *arch.Transformer, threads int) (string, error) {
	infos := c.Tensors()
	slices.SortFunc(infos, func(a, b tensor.Info) int { return strings.Compare(a.Name, b.Name) })
	digests := make([][]byte, len(infos))
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if err := parallel.Each(ctx, threads, len(infos), func(_, i int) (err error) {
		digests[i], err = digest(ctx, c, infos[i])
		return err
	}); err != nil {
		return "", err
	}
	h := sha256.New()
	for i, info := range infos {
		fmt.Fprintf(h, "%q %v %v %x\n", info.Name, info.DType, []int(info.Shape), digests[i])
	}
	computation, err := json.Marshal(computed(model))
	if err != nil {
		return "", err
	}
	h.Write(computation)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// computed is a computation in the form that is identified: the heads of a layer are left
// out where they are the model's, as before layers could differ in them, so that results
// of that time are still those of their models.
func computed(model *arch.Transformer) *arch.Transformer {
	t := *model
	t.Layers = slices.Clone(t.Layers)
	for i := range t.Layers {
		switch l := &t.Layers[i]; {
		case l.Heads == t.Heads && l.KVHeads == t.KVHeads:
			l.Heads, l.KVHeads = 0, 0
		case l.Heads == 0:
			l.Heads = -1 // none, which is not the model's
		}
	}
	return &t
}

// digest reads a tensor in pieces of about a megabyte.
func digest(ctx context.Context, c *checkpoint.Checkpoint, info tensor.Info) ([]byte, error) {
	h := sha256.New()
	rows := int(max(1, 1<<20/max(1, info.RowBytes())))
	buffer := make([]byte, int64(min(rows, info.Rows()))*info.RowBytes())
	for first := 0; first < info.Rows(); first += rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(rows, info.Rows()-first)
		part := buffer[:int64(n)*info.RowBytes()]
		if err := c.ReadRows(info.Name, part, first, n); err != nil {
			return nil, err
		}
		h.Write(part)
	}
	return h.Sum(nil), nil
}
