package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// Each script under testdata/script is a session with the program. Its commands beside
// those of testscript:
//
//	synth DIR [key=value...]         make a checkpoint of random weights (synthModel)
//	synthgguf FILE [key=value...]    the same as a GGUF file (synthGGUF)
//	badgguf FILE KIND                make a GGUF header that lies (badGGUF)
//	safetensors FILE HEADER BYTES    make a safetensors file of the header's text and zero bytes
//	mutate FILE OPERATION...         damage a file (mutate)
//	exit CODE coppice ARGS...        run the program, which must exit with that code
//	refused MODEL PATTERN...         inspect, prune and verify must exit with 3 and a
//	                                 message that matches every pattern, and write nothing
//	ledger FILE [METHOD=ERROR...]    make a small study's ledger, in which the cells of METHOD failed
//	json FILE PATH WANT              the value at a path such as layers.0.keep.len (len counts)
//	sametree A B                     two directories hold the same
//	nohidden [DIR]                   nothing hidden stands in the directory
//	regular DIR                      all files below are regular, none a link
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			// No cache of this machine's user plays a part.
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: withEval(map[string]func(*testscript.TestScript, bool, []string){
			"synth":       command(1, -1, func(ts *testscript.TestScript, a []string) error { return synthModel(ts.MkAbs(a[0]), a[1:]) }),
			"synthgguf":   command(1, -1, func(ts *testscript.TestScript, a []string) error { return synthGGUF(ts.MkAbs(a[0]), a[1:]) }),
			"badgguf":     command(2, 2, func(ts *testscript.TestScript, a []string) error { return badGGUF(ts.MkAbs(a[0]), a[1]) }),
			"safetensors": command(3, 3, makeSafetensors),
			"mutate":      command(2, -1, func(ts *testscript.TestScript, a []string) error { return mutate(ts.MkAbs(a[0]), a[1], a[2:]) }),
			"exit":        command(2, -1, exitWith),
			"refused":     command(2, -1, refused),
			"json":        command(3, 3, checkJSON),
			"ledger":      command(1, -1, makeLedger),
			"sametree":    command(2, 2, sameTree),
			"nohidden":    command(0, 1, noHidden),
			"regular":     command(1, 1, regular),
		}),
	})
}

// command makes a script command of a function that takes between min and max (-1: any
// number of) arguments. It cannot be negated.
func command(min, max int, f func(*testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < min || max >= 0 && len(args) > max {
			ts.Fatalf("wrong use of a command: negated %v, arguments %q", neg, args)
		}
		ts.Check(f(ts, args))
	}
}

// exitWith runs a program and compares its exit code.
func exitWith(ts *testscript.TestScript, args []string) error {
	want, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if code != want {
		return fmt.Errorf("%q: exit code %d, want %d", args[1:], code, want)
	}
	return nil
}

// refused runs three verbs on a bad model. What is found must be found before anything
// is written and within 64 MiB.
func refused(ts *testscript.TestScript, args []string) error {
	model := args[0]
	before, err := treeOf(ts.MkAbs("."))
	if err != nil {
		return err
	}
	status := filepath.Join(ts.Getenv("TMPDIR"), "status")
	ts.Setenv(peakEnv, status)
	defer ts.Setenv(peakEnv, "")
	for _, verb := range [][]string{{"inspect", model}, {"prune", model, "-o", "out", "--ratio", "0.5"}, {"verify", model}} {
		if err := exitWith(ts, append([]string{"3", "coppice"}, verb...)); err != nil {
			return err
		}
		message := ts.ReadFile("stderr")
		for _, p := range args[1:] {
			re, err := regexp.Compile(p)
			if err != nil {
				return err
			}
			if !re.MatchString(message) {
				return fmt.Errorf("coppice %q: the message lacks %q", verb, p)
			}
		}
		if strings.Contains(message, "panic") || strings.Contains(message, "goroutine ") {
			return fmt.Errorf("coppice %q: crashed", verb)
		}
		if err := checkPeak(status, 64<<10); err != nil {
			return fmt.Errorf("coppice %q: %w", verb, err)
		}
	}
	after, err := treeOf(ts.MkAbs("."))
	if err != nil {
		return err
	}
	if diff := cmp.Diff(before, after); diff != "" {
		return fmt.Errorf("files appeared or changed:\n%s", diff)
	}
	return nil
}

// checkPeak reads what recordPeak wrote, which only Linux tells.
func checkPeak(status string, limitKiB int) error {
	if runtime.GOOS != "linux" {
		return nil
	}
	b, err := os.ReadFile(status)
	if err != nil {
		return err
	}
	if err := os.Remove(status); err != nil {
		return err
	}
	m := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return fmt.Errorf("no VmHWM in %s", b)
	}
	if peak, _ := strconv.Atoi(string(m[1])); peak > limitKiB {
		return fmt.Errorf("peak memory %d KiB, limit %d", peak, limitKiB)
	}
	return nil
}

func makeSafetensors(ts *testscript.TestScript, args []string) error {
	n, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	return writeSafetensors(ts.MkAbs(args[0]), strings.TrimSpace(ts.ReadFile(args[1])), n)
}

// writeSafetensors makes a file of a header's text, right or wrong, and n zero bytes.
func writeSafetensors(path, header string, n int64) error {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, header...), 0o666); err != nil {
		return err
	}
	return os.Truncate(path, int64(len(b)+len(header))+n)
}

// mutate damages a file. The operations are
//
//	truncate N           to N bytes, or by N where N is negative
//	grow N               by N zero bytes
//	u32 OFFSET VALUE     write a little-endian number (at a negative offset: from the end)
//	u64 OFFSET VALUE
//	replace OLD NEW      the first occurrence of a text
//	set TENSOR I VALUE   element I (-1: the last) of a tensor of a safetensors file: nan, inf, -inf or a number
func mutate(path, operation string, args []string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	usage := fmt.Errorf("wrong arguments of %s: %q", operation, args)
	number := func(i int) int64 {
		if i >= len(args) {
			err = usage
			return 0
		}
		n, e := strconv.ParseUint(strings.TrimPrefix(args[i], "-"), 0, 64)
		if e != nil {
			err = usage
		}
		if strings.HasPrefix(args[i], "-") {
			return -int64(n)
		}
		return int64(n)
	}
	switch operation {
	case "truncate":
		n := number(0)
		if n < 0 {
			n += int64(len(b))
		}
		b = b[:n]
	case "grow":
		b = append(b, make([]byte, number(0))...)
	case "u32", "u64":
		at := number(0)
		if at < 0 {
			at += int64(len(b))
		}
		if operation == "u32" {
			binary.LittleEndian.PutUint32(b[at:], uint32(number(1)))
		} else {
			binary.LittleEndian.PutUint64(b[at:], uint64(number(1)))
		}
	case "replace":
		if len(args) != 2 || !strings.Contains(string(b), args[0]) {
			return usage
		}
		b = []byte(strings.Replace(string(b), args[0], args[1], 1))
	case "set":
		if len(args) != 3 {
			return usage
		}
		err = setElement(path, b, args[0], int(number(1)), args[2])
	default:
		return fmt.Errorf("unknown operation %q", operation)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o666)
}

func setElement(path string, b []byte, name string, i int, value string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := safetensors.ReadHeader(f, int64(len(b)))
	if err != nil {
		return err
	}
	e, ok := h.Lookup(name)
	if !ok {
		return fmt.Errorf("no tensor %q", name)
	}
	v, err := strconv.ParseFloat(value, 32)
	if err != nil {
		return err
	}
	size := int64(e.DType.BlockBytes())
	if i < 0 {
		i += int((e.End - e.Begin) / size)
	}
	to := b[e.Begin+int64(i)*size:][:size]
	switch { // Encode refuses what is not finite in some types, so write the bits
	case math.IsNaN(v) && e.DType == tensor.BF16:
		binary.LittleEndian.PutUint16(to, 0x7fc0)
	case math.IsInf(v, 1) && e.DType == tensor.F16:
		binary.LittleEndian.PutUint16(to, 0x7c00)
	default:
		return tensor.Encode(to, []float32{float32(v)}, e.DType)
	}
	return nil
}

// checkJSON compares a value of a JSON file (or stdout) with the text that
// fmt.Sprint gives it.
func checkJSON(ts *testscript.TestScript, args []string) error {
	text := ts.ReadFile(args[0])
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if dec.More() {
		return fmt.Errorf("%s: more than one JSON value", args[0])
	}
	for _, key := range strings.Split(args[1], ".") {
		var ok bool
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[key]
		case []any:
			if key == "len" {
				v, ok = len(at), true
			} else if i, err := strconv.Atoi(key); err == nil && i < len(at) {
				v, ok = at[i], true
			}
		}
		if !ok {
			return fmt.Errorf("%s: no %q of %s", args[0], key, args[1])
		}
	}
	if got := fmt.Sprint(v); got != args[2] {
		return fmt.Errorf("%s: %s is %s, want %s", args[0], args[1], got, args[2])
	}
	return nil
}

func sameTree(ts *testscript.TestScript, args []string) error {
	a, err := treeOf(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	b, err := treeOf(ts.MkAbs(args[1]))
	if err != nil {
		return err
	}
	if diff := cmp.Diff(a, b); diff != "" {
		return errors.New(diff)
	}
	return nil
}

func noHidden(ts *testscript.TestScript, args []string) error {
	dir := ts.MkAbs(append(args, ".")[0])
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && e.Name() != ".tmp" { // testscript's own
			return fmt.Errorf("%s: left behind", filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

func regular(ts *testscript.TestScript, args []string) error {
	files, err := treeOf(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	if _, ok := files["config.json"]; !ok {
		return fmt.Errorf("%s: no config.json", args[0])
	}
	for name, what := range files {
		if !strings.HasPrefix(what, "-") && !strings.HasPrefix(what, "d") {
			return fmt.Errorf("%s: %s", name, what)
		}
	}
	return nil
}
