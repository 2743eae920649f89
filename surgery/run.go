package surgery

import (
	"bytes"
	"context"
	"fmt"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/parallel"
	"github.com/coppice-lm/coppice/tensor"
)

// Options are what Run and Verify can be told.
type Options struct {
	Threads        int               // goroutines; at least 1
	ShardBytes     int64             // most bytes of a shard
	AllowNonFinite bool              // go on where a weight is NaN or infinite
	Progress       func(bytes int64) // called with the bytes done since the last call, from many goroutines; may be nil
}

// Run writes the program's checkpoint: weights, the extra files of the input, and the
// files given (name to content, which replace extra files of the same name). It commits
// the sink; on an error or a cancelled context nothing is published, and the caller
// aborts the sink.
func (p *Program) Run(ctx context.Context, c *checkpoint.Checkpoint, sink *checkpoint.Sink, files map[string][]byte, opt Options) error {
	if err := sink.Layout(p.Infos(), opt.ShardBytes); err != nil {
		return err
	}
	if err := p.stream(ctx, c, opt, func(k chunk, b []byte) error {
		return sink.WriteAt(k.step.Out.Name, b, k.offset())
	}); err != nil {
		return err
	}
	for _, f := range c.Extra() {
		_, replaced := files[f.Name]
		if _, ours := p.files[f.Name]; replaced || ours {
			continue
		}
		if err := sink.CopyFile(f); err != nil {
			return err
		}
	}
	for _, more := range []map[string][]byte{p.files, files} {
		for name, b := range more {
			if b == nil {
				continue
			}
			if err := sink.WriteFile(name, bytes.NewReader(b)); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return sink.Commit(p.Config.Bytes())
}

// Verify compares a checkpoint with what the program makes, byte for byte.
func (p *Program) Verify(ctx context.Context, c, made *checkpoint.Checkpoint, opt Options) error {
	if made.Spec.Form != p.Spec.Form {
		return fmt.Errorf("%s: config.json is of the form %v; the plan makes %v", made.Path, made.Spec.Form, p.Spec.Form)
	}
	expected := map[string]bool{}
	for _, s := range p.Steps {
		expected[s.Out.Name] = true
		got, ok := made.Lookup(s.Out.Name)
		if !ok {
			return fmt.Errorf("%s: tensor %q is missing; the plan makes it", made.Path, s.Out.Name)
		}
		if got.DType != s.Out.DType || !got.Shape.Equal(s.Out.Shape) {
			return fmt.Errorf("%s: tensor %q is %v %v; the plan makes %v %v", made.Path, s.Out.Name, got.DType, got.Shape, s.Out.DType, s.Out.Shape)
		}
	}
	for _, i := range made.Tensors() {
		if !expected[i.Name] {
			return fmt.Errorf("%s: tensor %q is not what the plan makes", made.Path, i.Name)
		}
	}
	return p.each(ctx, c, opt, func(k chunk, want []byte) error {
		got := make([]byte, len(want))
		if err := made.ReadRows(k.step.Out.Name, got, k.row, k.n); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: tensor %q differs from what the plan makes of %s, between rows %d and %d", made.Path, k.step.Out.Name, c.Path, k.row, k.row+k.n)
		}
		return nil
	})
}

// CheckWeights reads a whole checkpoint and is an error at the first weight that is NaN
// or infinite.
func CheckWeights(ctx context.Context, c *checkpoint.Checkpoint, opt Options) error {
	p := &Program{}
	for _, i := range c.Tensors() {
		s := Step{In: i, Out: i}
		if i.DType.IsBlock() {
			s.Out.DType = tensor.F32
		}
		p.Steps = append(p.Steps, s)
	}
	return p.each(ctx, c, opt, func(chunk, []byte) error { return nil })
}

// stream makes the chunks on many goroutines and hands them to write on one, about in
// order.
func (p *Program) stream(ctx context.Context, c *checkpoint.Checkpoint, opt Options, write func(chunk, []byte) error) error {
	chunks := p.chunks()
	newMaker := func() *maker { return &maker{from: c, refit: p.refit, allowNonFinite: opt.AllowNonFinite} }
	return parallel.Stream(ctx, opt.Threads, len(chunks), newMaker, func(m *maker, i int) ([]byte, error) {
		return m.make(chunks[i])
	}, func(i int, b []byte) error {
		err := write(chunks[i], b)
		if err == nil && opt.Progress != nil {
			opt.Progress(int64(len(b)))
		}
		return err
	})
}

// each makes every chunk of the program, in order but many at a time, and hands it to
// do on the goroutine that made it.
func (p *Program) each(ctx context.Context, c *checkpoint.Checkpoint, opt Options, do func(chunk, []byte) error) error {
	makers := make([]maker, max(1, opt.Threads))
	for w := range makers {
		makers[w] = maker{from: c, refit: p.refit, allowNonFinite: opt.AllowNonFinite}
	}
	chunks := p.chunks()
	return parallel.Each(ctx, opt.Threads, len(chunks), func(w, i int) error {
		b, err := makers[w].make(chunks[i])
		if err == nil {
			err = do(chunks[i], b)
		}
		if err == nil && opt.Progress != nil {
			opt.Progress(int64(len(b)))
		}
		return err
	})
}
