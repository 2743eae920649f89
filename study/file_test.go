package study

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/score"
)

const goodFile = `version: 1
models:
  - path: m
methods: [maxabs, best]
ratios: [0.2, 0.6]
tasks: [arc_easy]
data: data
`

// place makes the files that goodFile names and writes a study file beside them.
func place(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"m", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "text.txt"), []byte("some text"), 0o666); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "glu.yaml")
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := place(t, goodFile)
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "glu" || s.Models[0].Name != "m" || s.Align != 1 || !slices.Equal(s.DTypes, []string{"f32"}) || !slices.Equal(s.Seeds, []uint64{0}) || s.Calibration.Tokens != 65536 {
		t.Errorf("defaults: %+v", s)
	}
	if got, want := s.LedgerPath(), filepath.Join(filepath.Dir(path), "glu.ledger.jsonl"); got != want {
		t.Errorf("the ledger is %s, want %s", got, want)
	}
}

// What is wrong with a file is named by line, column and key.
func TestLoadErrors(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(goodFile, old) {
			t.Fatalf("no %q in the file", old)
		}
		return strings.Replace(goodFile, old, new, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ": is empty; `coppice study init`"},
		{"not YAML", "version: [1\n", ": line 1: "},
		{"a list", "- 1\n", ":1:1: expected keys with values; the keys here are version, name, models"},
		{"two documents", goodFile + "---\nversion: 1\n", ":8:1: a second document"},
		{"version", replace("version: 1", "version: 2"), `:1:10: version: "2" is not one of 1`},
		{"no version", replace("version: 1\n", ""), `:1:1: the key "version" is missing: version of the study file`},
		{"unknown key", goodFile + "ration: [0.5]\n", `:8:1: unknown key "ration"; the keys here are version, `},
		{"unknown key of a model", replace("  - path: m", "  - path: m\n    nam: x"), `:4:5: models[0]: unknown key "nam"; the keys here are path, name, base_model`},
		{"key twice", goodFile + "data: data\n", `:8:1: the key "data" is there twice`},
		{"method", replace("best", "beast"), `:4:19: methods[1]: "beast" is not one of maxabs, variance`},
		{"task", replace("arc_easy", "arc"), `:6:9: tasks[0]: unknown task "arc": the tasks are arc_easy, `},
		{"ratio of 1", replace("0.6", "1"), ":5:15: ratios[1]: 1: expected more than 0 and less than 1"},
		{"ratio of NaN", replace("0.6", ".nan"), ":5:15: ratios[1]: .nan: expected more than 0 and less than 1"},
		{"expansion without end", replace("ratios: [0.2, 0.6]", "expansions: [2, .inf]"), ":5:17: expansions[1]: .inf: expected a finite number"},
		{"power without end", goodFile + "energy: {tdp: .inf}\n", ":8:15: energy.tdp: .inf: expected a finite number"},
		{"ratio below 0", replace("0.6", "-1"), ":5:15: ratios[1]: -1: expected more than 0"},
		{"ratio of text", replace("0.6", "most"), `:5:15: ratios[1]: "most" is not a number`},
		{"ratio alone", replace("[0.2, 0.6]", "0.2"), ":5:9: ratios: expected a list, such as [0.2]"},
		{"no ratio", replace("[0.2, 0.6]", "[]"), ":5:9: ratios: is empty"},
		{"null", replace("data: data", "data:"), ":7:6: data: expected a text"},
		{"align", goodFile + "align: 1.5\n", `:8:8: align: "1.5" is not a whole number`},
		{"no size", replace("ratios: [0.2, 0.6]\n", ""), ":1:1: one of the keys ratios, widths and expansions is needed"},
		{"two sizes", goodFile + "widths: [5]\n", ":8:9: widths: ratios is given too"},
		{"seed", goodFile + "seeds: [-1]\n", `:8:9: seeds[0]: "-1" is not a whole number of at least 0`},
		{"dtype", goodFile + "dtypes: [f16]\n", `:8:10: dtypes[0]: "f16" is not one of f32, bf16`},
		{"no model", replace("path: m", "path: other"), ":3:11: models[0].path: other: no such model"},
		{"base model", replace("path: m", "path: m\n    base_model: /models/m"), `:4:17: models[0].base_model: "/models/m" is not a name on the hub`},
		{"one name", replace("  - path: m\n", "  - path: m\n  - {path: data, name: m}\n"), `:4:5: models[1]: models[0] is named "m" too`},
		{"no data", replace("data: data\n", ""), ":6:8: tasks: tasks need the key data"},
		{"data missing", replace("data: data", "data: nowhere"), ":7:7: data: nowhere: no such file or directory"},
		{"nothing to measure", replace("tasks: [arc_easy]\ndata: data\n", ""), ":1:1: one of the keys tasks and text is needed"},
		{"text missing", goodFile + "text: {files: [a.txt]}\n", ":8:16: text.files[0]: a.txt: no such file"},
		{"text twice", goodFile + "text: {files: [text.txt, ./text.txt]}\n", `:8:26: text.files[1]: "text.txt" is the name of another text`},
		{"limit of no task", goodFile + "limits: [{task: musr, records: 3}]\n", `:8:17: limits[0].task: "musr" is not one of tasks: arc_easy`},
		{"limit twice", goodFile + "limits: [{task: arc_easy, records: 3}, {task: arc_easy, records: 4}]\n", `:8:47: limits[1].task: "arc_easy" has a limit already`},
		{"two limits", replace("[arc_easy]", "[musr, musr_team_allocation]") + "limits: [{task: musr, records: 3}]\n", ":6:9: tasks[0]: task musr_team_allocation is named twice, with limits of 3 and 0 records"},
		{"limit of nothing", goodFile + "limits: [{task: arc_easy, records: 0}]\n", `:8:36: limits[0].records: 0: expected at least 1`},
		{"file of the built-in text's name", goodFile + "calibration: {text: [./builtin]}\n", ":8:22: calibration.text[0]: ./builtin: is the name of the text that the program carries; give the file another"},
		{"calibration", goodFile + "calibration: {text: [a.txt]}\n", ":8:22: calibration.text[0]: a.txt: no such file"},
		{"form", goodFile + "form: llama\nallocation: [uniform, global]\n", ":9:23: allocation[1]: global gives each layer a width of its own, which form llama cannot say"},
		{"measured", goodFile + "allocation: [measured]\n", ":8:14: allocation[0]: measured runs pruned models"},
	} {
		path := place(t, c.text)
		_, err := Load(path)
		if err == nil || !strings.HasPrefix(err.Error(), path+c.want[:1]) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
	// All that is wrong is said at once.
	path := place(t, replace("best", "beast")+"ration: 1\n")
	if _, err := Load(path); err == nil || strings.Count(err.Error(), path+":") != 2 {
		t.Errorf("two mistakes: %v", err)
	}
}

// The example is what the reader takes, and mentions every key.
func TestExample(t *testing.T) {
	path := place(t, string(Example))
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), "./Llama-3.2-1B: no such model") || strings.Contains(err.Error(), "\n") {
		t.Errorf("beside a model that is not there: %v", err)
	}
	// Without its comment signs the rest holds, too.
	text := regexp.MustCompile(`(?m)^# ( *[a-z_]+:( |$))`).ReplaceAllString(string(Example), "$1")
	var s Study
	d, err := decodeYAML("example.yaml", []byte(text), &s)
	if err == nil {
		err = d.err()
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, key := range keysOf(reflect.TypeFor[Study]()) {
		if d.nodes[key] == nil {
			t.Errorf("the example does not mention the key %q", key)
		}
	}
}

// The schema knows every key with its description, and the methods are those there are.
func TestSchema(t *testing.T) {
	type schema struct {
		Type                 string
		Description          string
		Properties           map[string]schema
		AdditionalProperties *bool
		Items                *schema
		Enum                 []any
		Required             []string
	}
	var root schema
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	var check func(at string, s schema, typ reflect.Type)
	check = func(at string, s schema, typ reflect.Type) {
		if typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			if typ.Kind() == reflect.Slice {
				if s.Type != "array" || s.Items == nil {
					t.Errorf("%s is no array: %+v", at, s)
					return
				}
				s = *s.Items
			}
			check(at, s, typ.Elem())
			return
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		if s.AdditionalProperties == nil || *s.AdditionalProperties || len(s.Properties) != len(fieldsOf(typ)) {
			t.Errorf("%s: %d properties of %d, or others are allowed", at, len(s.Properties), len(fieldsOf(typ)))
		}
		for _, f := range fieldsOf(typ) {
			p := s.Properties[f.Tag.Get("yaml")]
			if p.Description == "" || p.Type == "" {
				t.Errorf("%s.%s: no description or type: %+v", at, f.Tag.Get("yaml"), p)
			}
			check(at+"."+f.Tag.Get("yaml"), p, f.Type)
		}
	}
	check("", root, reflect.TypeFor[Study]())
	var want []any
	for _, m := range slices.Concat(score.Methods, score.CalibratedMethods) {
		want = append(want, string(m))
	}
	got := root.Properties["methods"].Items.Enum
	for _, m := range append(want, best) {
		if !slices.Contains(got, m) {
			t.Errorf("the schema does not know method %v", m)
		}
	}
	if len(got) != len(want)+1 {
		t.Errorf("the schema's methods are %v", got)
	}
}

// Tasks of one limit are asked by one evaluation, and each text goes with one of the limit
// of the file. A group's limit is that of its parts.
func TestAsks(t *testing.T) {
	s := &Study{
		Tasks: []string{"arc_easy", "musr", "boolq", "wikitext"}, Limit: 200,
		Limits: []Limit{{"musr", 60}, {"wikitext", 60}}, Text: &Text{Files: []string{"a.txt", "b.txt"}},
	}
	want := []ask{
		{tasks: []string{"arc_easy", "boolq"}, text: "a.txt", limit: 200},
		{tasks: []string{"musr", "wikitext"}, limit: 60},
		{text: "b.txt", limit: 200},
	}
	if diff := cmp.Diff(want, s.asks(), cmp.AllowUnexported(ask{})); diff != "" {
		t.Error(diff)
	}
	if n := s.limits()["musr_team_allocation"]; n != 60 {
		t.Errorf("a part of musr is asked %d records", n)
	}
	// By another name of the group, too.
	s = &Study{Tasks: []string{"leaderboard_musr"}, Limits: []Limit{{"leaderboard_musr", 7}}}
	if n := s.limits()["musr_team_allocation"]; n != 7 || s.asks()[0].limit != n {
		t.Errorf("a part of leaderboard_musr is asked %d records", n)
	}
}
