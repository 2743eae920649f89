package study

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/filelock"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// makeVariant makes the pruned model of a cell, unless an earlier run has, and returns its
// path as commands are given it. Of a dense cell that is the model itself.
func (j *job) makeVariant(ctx context.Context) (string, error) {
	c := j.cell
	model := c.model.Path
	if p := j.modelPath(c.model.Model); p != model || !isHubRef(model) {
		model = j.path(p, c.model.Name)
	}
	if c.Method == Dense {
		return model, nil
	}
	if err := os.MkdirAll(j.scratch(c), 0o777); err != nil {
		return "", writeError(err)
	}
	// A directory that is there is whole: prune and apply publish by renaming.
	done := exists(j.variant(c))
	variant := j.path(j.variant(c), c.variantName())
	size := c.sizeFlags()
	if c.Allocation != uniform && j.Form != "" {
		size = append(size, "--form", j.Form)
	}
	if !usesStats(c.Method, c.Allocation) {
		args := append([]string{"prune", model, "-o", variant, "--method", c.Method}, size...)
		if c.Method == string(score.Random) {
			args = append(args, "--seed", strconv.FormatUint(c.Seed, 10))
		}
		_, err := j.command(ctx, done, nil, args...)
		return variant, err
	}
	stats, err := j.statistics(ctx, model)
	if err != nil {
		return "", err
	}
	if c.Allocation == measured {
		args := append([]string{"prune", model, "-o", variant, "--method", c.Method, "--allocation", measured, "--stats", stats}, size...)
		if c.Method == best {
			args = append(args, "--steps", strconv.Itoa(c.Steps))
		}
		_, err := j.command(ctx, done, nil, append(args, j.textFlags()...)...)
		return variant, err
	}
	scores, err := j.scores(ctx, model, stats)
	if err != nil {
		return "", err
	}
	planFile := j.path(filepath.Join(j.cellDir(c), "plan.json"), "plan.json")
	args := append([]string{"plan", model, "--scores", scores, "--stats", stats, "-o", planFile}, size...)
	if c.Allocation != uniform {
		args = append(args, "--allocation", c.Allocation)
	}
	apply := []string{"apply", model, "--plan", planFile, "-o", variant}
	if c.Method == best {
		args, apply = append(args, "--refit", string(plan.LeastSquares)), append(apply, "--stats", stats)
	} else if c.Allocation == uniform {
		args = slices.DeleteFunc(args, func(a string) bool { return a == "--stats" || a == stats })
	}
	if _, err := j.command(ctx, done, nil, args...); err != nil {
		return "", err
	}
	if c.Steps > 0 {
		stepped, weights := j.path(filepath.Join(j.cellDir(c), "stepped.json"), "stepped.json"), j.path(filepath.Join(j.scratch(c), "weights.safetensors"), "weights.safetensors")
		args := append([]string{"refit", model, "--plan", planFile, "--from", stats, "--target", string(plan.PredictionsTarget), "--steps", strconv.Itoa(c.Steps), "-o", stepped, "--stats", weights}, j.textFlags()...)
		if _, err := j.command(ctx, done, nil, args...); err != nil {
			return "", err
		}
		apply = []string{"apply", model, "--plan", stepped, "-o", variant, "--stats", weights}
	}
	_, err = j.command(ctx, done, nil, apply...)
	return variant, err
}

// sizeFlags are the flags of prune and plan that say how much stays.
func (c *Cell) sizeFlags() []string {
	var f []string
	switch {
	case c.Width != 0:
		f = []string{"--width", strconv.Itoa(c.Width)}
	case c.Expansion != 0:
		f = []string{"--expansion", formatFloat(c.Expansion)}
	default:
		f = []string{"--ratio", formatFloat(c.Ratio)}
	}
	return append(f, "--align", strconv.Itoa(c.Align))
}

// variantName names the pruned model in commands for people.
func (c *Cell) variantName() string {
	name := c.Model + "-" + c.Method
	switch {
	case c.Width != 0:
		name += fmt.Sprintf("-w%d", c.Width)
	case c.Expansion != 0:
		name += "-x" + formatFloat(c.Expansion)
	default:
		name += "-" + strconv.FormatFloat(100*c.Ratio, 'g', 6, 64)
	}
	if c.Allocation != uniform {
		name += "-" + c.Allocation
	}
	if c.Seed != 0 {
		name += fmt.Sprintf("-seed%d", c.Seed)
	}
	return name
}

// textFlags name the calibration text and how much of it is used.
func (j *job) textFlags() []string {
	var f []string
	for _, text := range j.Calibration.Text {
		if text != calib.BuiltInName {
			text = j.path(j.abs(text), filepath.Base(text))
		}
		f = append(f, "--calib", text)
	}
	return append(f, "--tokens", strconv.Itoa(j.Calibration.Tokens), "--ctx", strconv.Itoa(j.Calibration.Ctx), "--seed", strconv.FormatUint(j.cell.Seed, 10))
}

// statistics makes the statistics of the cell's model and seed, once for all cells.
func (j *job) statistics(ctx context.Context, model string) (string, error) {
	c := j.cell
	file := j.sharedFile(c, "stats.safetensors")
	stats := j.path(file, fmt.Sprintf("%s-seed%d.stats.safetensors", c.Model, c.Seed))
	made := !exists(file)
	if err := j.shared(ctx, file, append([]string{"calib", model, "-o", stats}, j.textFlags()...)); err != nil || !made {
		return stats, err
	}
	// They stand under the fingerprint of the text as it was when the study began.
	now, err := j.calibrationFingerprint()
	if err == nil && now != j.inputs.calibration {
		err = errors.New("the calibration text changed while the study ran; run it again")
	}
	if err != nil {
		err = &cellError{errors.Join(err, os.Remove(file))}
		j.failed[file] = err
	}
	return stats, err
}

// scores makes the scores of a method, with their error curves, once for all sizes. best goes by the scores of obs.
func (j *job) scores(ctx context.Context, model, stats string) (string, error) {
	c := j.cell
	method := c.Method
	if method == best {
		method = string(score.OBS)
	}
	file := j.sharedFile(c, method+".scores.json")
	scores := j.path(file, fmt.Sprintf("%s-%s-seed%d.scores.json", c.Model, method, c.Seed))
	args := []string{"score", model, "--method", method, "--stats", stats, "-o", scores}
	if method == string(score.Random) {
		args = append(args, "--seed", strconv.FormatUint(c.Seed, 10))
	}
	if err := j.shared(ctx, file, args); err != nil {
		return "", err
	}
	return scores, j.readCurves(file)
}

// sharedFile is a file that cells share: its name says which model, text and seed it is of.
func (r *run) sharedFile(c *gridCell, what string) string {
	return filepath.Join(r.StateDir(), "shared", digest(c.model.identity, c.Calibration, c.Seed)+"."+what)
}

// shared carries out a command that makes a file, unless it is there. One run does it, the
// others wait for it. What failed once is not tried again by the same run.
func (j *job) shared(ctx context.Context, file string, args []string) error {
	if err := j.failed[file]; err != nil {
		return err
	}
	f, err := lock(ctx, file+".lock", func(holder string) {
		j.Note(fmt.Sprintf("%s is being made by %s; waiting for it", filepath.Base(file), holder))
	})
	if ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		return writeError(err)
	}
	defer filelock.Release(f)
	_, err = j.command(ctx, exists(file), f, args...)
	if err != nil && ctx.Err() == nil {
		j.failed[file] = err
	}
	return err
}

// ShapeOf describes a model on disk: one that was pruned, of which dense is the shape that
// it had, or where dense is nil one as it came.
func ShapeOf(path string, dense *arch.Spec) (*Shape, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	byRole, total := c.Spec.Parameters()
	s := &Shape{
		Family: c.Spec.Family.ModelType, Layers: c.Spec.Layers, Hidden: c.Spec.Hidden, DenseWidth: c.Spec.Intermediate,
		Widths: c.Spec.Widths, Parameters: total, Bytes: c.Bytes(), StoredDType: storedDType(c),
		MLPParameters: byRole[arch.MLP],
	}
	if dense == nil {
		return s, nil
	}
	s.DenseWidth = dense.Intermediate
	b, err := os.ReadFile(filepath.Join(path, checkpoint.PlanName))
	if err != nil {
		return nil, err
	}
	p, err := plan.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checkpoint.PlanName, err)
	}
	for l, layer := range p.Layers {
		bits := make([]byte, (dense.Widths[l]+7)/8)
		for _, n := range layer.Keep {
			bits[n/8] |= 1 << (n % 8)
		}
		s.Kept = append(s.Kept, bits)
	}
	return s, nil
}

// storedDType names the types of the weights, the one with the most bytes first.
func storedDType(c *checkpoint.Checkpoint) string {
	bytes := map[string]int64{}
	for _, info := range c.Tensors() {
		n, _ := info.Bytes() // checked when the header was read
		bytes[strings.ToLower(info.DType.String())] += n
	}
	var types []string
	for t := range bytes {
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b string) int {
		if bytes[a] != bytes[b] {
			return int(math.Copysign(1, float64(bytes[b]-bytes[a])))
		}
		return strings.Compare(a, b)
	})
	return strings.Join(types, "+")
}

// curvePoints is at how many widths a record has a layer's error.
const curvePoints = 17

// readCurves takes a few points of the error curves that a file of scores has.
func (j *job) readCurves(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return &cellError{err}
	}
	s, err := score.Decode(b)
	if err != nil {
		return cellErrorf("%s: %w", file, err)
	}
	if s.Curves == nil {
		return nil
	}
	refit := plan.RefitMethod("")
	if j.cell.Method == best {
		refit = plan.LeastSquares
	}
	curves := &Curves{}
	for i := range s.Curves.Layers {
		errors, stream := refit.Errors(&s.Curves.Layers[i])
		var points LayerCurve
		for p := range curvePoints {
			k := p * (len(errors) - 1) / (curvePoints - 1)
			e := 0.0
			if stream > 0 {
				e = float64(errors[k]) / stream
			}
			points.Kept, points.Error = append(points.Kept, k), append(points.Error, significant(e))
		}
		curves.Layers = append(curves.Layers, points)
	}
	j.rec.Curves = curves
	return nil
}

// significant rounds to six significant digits: a curve is for the eye.
func significant(x float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 6, 64), 64)
	if err != nil {
		return x
	}
	return r
}
