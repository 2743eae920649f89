package tasks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads a record of a task from JSON Lines.
func load(t *testing.T, name, line string) (*eval.Task, error) {
	t.Helper()
	return definition(t, name).Load(writeFile(t, "data.jsonl", line+"\n"))
}

// choice is what a multiple-choice or cloze record becomes.
type choice struct {
	Pairs   []eval.Pair
	Gold    int
	Lengths []int
	Target  string
}

func pairs(context string, continuations ...string) []eval.Pair {
	var out []eval.Pair
	for _, c := range continuations {
		out = append(out, eval.Pair{Context: context, Continuation: c})
	}
	return out
}

// The same record in the schema of its authors and in that of the data-set library.
func TestSchemas(t *testing.T) {
	star := choice{pairs("Question: Which is a star?\nAnswer:", " Sun", " Möön", " Mars"), 1, []int{3, 4, 4}, "1"}
	book := choice{pairs("Which is a star", " Sun", " Moon"), 0, []int{3, 4}, "0"}
	ethanol := choice{pairs("Title -- Text.\nQuestion: is it?\nAnswer:", " no", " yes"), 1, []int{2, 3}, "1"}
	lambada := choice{pairs("in my  palm", " stone"), 0, nil, " stone"}
	musr := choice{pairs("Story.\n\nWho?\n\n1 - Ann's\n2 - Bob\n\nAnswer:", " Ann's", " Bob"), 1, []int{5, 3}, "Bob"}
	roof := choice{pairs("Roof: A man. He sits", " up.", " down."), 0, []int{3, 5}, "0"}
	step := choice{pairs("Roof: A man. He sits", " up.. On", "  down."), 0, []int{7, 6}, "0"} // the space after [step] stays
	goal := choice{pairs("Question: To boil\nAnswer:", " heat", " cool"), 1, []int{4, 4}, "1"}
	wino := choice{
		[]eval.Pair{{Context: "The cup, since Ann", Continuation: " was tall."}, {Context: "The cup, since Eve", Continuation: " was tall."}},
		1, []int{9, 9}, "was tall.",
	}
	for _, c := range []struct {
		name, task, line string
		want             choice
	}{
		{"authors", "arc_easy", `{"id":"1","question":{"stem":"Which is a star?","choices":[{"text":"Sun","label":"1"},{"text":"Möön","label":"2"},{"text":"Mars","label":"3"}]},"answerKey":"2"}`, star},
		{"library", "arc_easy", `{"id":"1","question":"Which is a star?","choices":{"text":["Sun","Möön","Mars"],"label":["A","B","C"]},"answerKey":"B"}`, star},
		{"library, list of pairs", "arc_challenge", `{"question":"Which is a star?","choices":[{"text":"Sun","label":"A"},{"text":"Möön","label":"B"},{"text":"Mars","label":"C"}],"answerKey":"B"}`, star},
		{"authors", "openbookqa", `{"question":{"stem":"Which is a star","choices":[{"text":"Sun","label":"A"},{"text":"Moon","label":"B"}]},"answerKey":"A"}`, book},
		{"library", "openbookqa", `{"question_stem":"Which is a star","choices":{"text":["Sun","Moon"],"label":["A","B"]},"answerKey":" A"}`, book},
		{"SuperGLUE", "boolq", `{"question":"is it","passage":"Title -- Text.","idx":0,"label":true}`, ethanol},
		{"library", "boolq", `{"question":"is it","passage":"Title -- Text.","idx":0,"label":1}`, ethanol},
		{"first release", "boolq", `{"question":"is it","title":"Title","answer":true,"passage":"Text."}`, ethanol},
		{"OpenAI", "lambada_openai", `{"text":"in my  palm stone"}`, lambada},
		{"standard", "lambada_standard", `{"text":"in my  palm stone","domain":null}`, lambada},
		{"list", "musr_murder_mysteries", `{"narrative":"Story.","question":"Who?","choices":["Ann's","Bob"],"answer_index":1,"answer_choice":"Bob"}`, musr},
		{"library", "musr_murder_mysteries", `{"narrative":"Story.","question":"Who?","choices":"[\"Ann's\", 'Bob']","answer_index":1,"answer_choice":"Bob"}`, musr},
		{"authors", "hellaswag", `{"activity_label":"Roof","ctx_a":"A man.","ctx_b":"he sits","endings":["up. [title] On"," [step] down."],"label":0}`, step},
		{"library", "hellaswag", `{"activity_label":"Roof","ctx_a":"A man.","ctx_b":"he sits","endings":["up."," down."],"label":"0"}`, roof},
		{"library", "piqa", `{"goal":"To boil","sol1":"heat","sol2":"cool","label":1}`, goal},
		{"both", "winogrande", `{"sentence":"The cup, since _ was tall.","option1":"Ann","option2":"Eve","answer":"2"}`, wino},
	} {
		t.Run(c.task+", "+c.name, func(t *testing.T) {
			task, err := load(t, c.task, c.line)
			if err != nil {
				t.Fatal(err)
			}
			d := task.Docs[0]
			if diff := cmp.Diff(c.want, choice{d.Pairs, d.Gold, d.Lengths, d.Target}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPIQALabelsBeside(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	record := `{"goal":"g","sol1":"a","sol2":"b"}` + "\n"
	write("valid.jsonl", record+record)
	path := filepath.Join(dir, "valid.jsonl")
	if _, err := definition(t, "piqa").Load(path); err == nil || !strings.Contains(err.Error(), "valid-labels.lst is not there") {
		t.Errorf("no labels: error %v", err)
	}
	write("valid-labels.lst", "1\n0\n")
	task, err := definition(t, "piqa").Load(path)
	if err != nil || task.Docs[0].Gold != 1 || task.Docs[1].Gold != 0 {
		t.Errorf("%v", err)
	}
	write("valid-labels.lst", "1\n")
	if _, err := definition(t, "piqa").Load(path); err == nil || !strings.Contains(err.Error(), "1 labels for the 2 records") {
		t.Errorf("too few labels: error %v", err)
	}
	write("valid-labels.lst", "1\nx\n")
	if _, err := definition(t, "piqa").Load(path); err == nil || !strings.Contains(err.Error(), "valid-labels.lst:2") {
		t.Errorf("a label that is none: error %v", err)
	}
}

// Every record that cannot be read is an error with task, file and line.
func TestBadRecords(t *testing.T) {
	good := `{"question":{"stem":"s","choices":[{"text":"a","label":"A"},{"text":"b","label":"B"}]},"answerKey":"A"}`
	for _, c := range []struct{ task, line, want string }{
		{"arc_easy", `{"question":`, "not a JSON object"},
		{"arc_easy", `[]`, "not a JSON object"},
		{"arc_easy", `null`, "is null"},
		{"arc_easy", "{\"question\":\"\xff\"}", "UTF-8"},
		{"arc_easy", `{"answerKey":"A"}`, `no field "question"`},
		{"arc_easy", `{"question":{"stem":"s"},"answerKey":"A"}`, `no field "choices"`},
		{"arc_easy", strings.Replace(good, `"answerKey":"A"`, `"answerKey":"C"`, 1), `answerKey "C"`},
		{"arc_easy", strings.Replace(good, `"label":"B"`, `"lab":"B"`, 1), "lacks text or label"},
		{"arc_easy", strings.Replace(good, `"s"`, `7`, 1), `field "stem"`},
		{"arc_easy", `{"question":"s","choices":{"text":["a"],"label":["A","B"]},"answerKey":"A"}`, "1 texts and 2 labels"},
		{"openbookqa", `{"question_stem":"s","answerKey":"A"}`, `no field "choices"`},
		{"boolq", `{"question":"q","passage":"p","answer":true}`, `no field "title"`},
		{"boolq", `{"question":"q","passage":"p","label":2}`, "number 2 of 2 choices"},
		{"boolq", `{"question":"q","passage":"p","label":-1}`, "not the index"},
		{"boolq", `{"question":"q","passage":"p","label":null}`, `no field "title"`},
		{"lambada_openai", `{"txt":"a"}`, `no field "text"`},
		{"musr_team_allocation", `{"narrative":"n","question":"q","choices":["a"],"answer_choice":"b"}`, `"b" is none of the choices`},
		{"musr_team_allocation", `{"narrative":"n","question":"q","choices":"['a'","answer_choice":"a"}`, "not a Python list"},
		{"hellaswag", `{"activity_label":"a","ctx_a":"a","ctx_b":"b","endings":["e"],"label":""}`, "not the index"},
		{"winogrande", `{"sentence":"no blank","option1":"a","option2":"b","answer":"1"}`, "no blank"},
		{"winogrande", `{"sentence":"a _ b","option1":"a","option2":"b","answer":""}`, "neither 1 nor 2"},
		{"wikitext", `{"pages":"x"}`, `no field "text"`},
	} {
		// The bad record stands on the third line, after an empty one.
		first := c.line
		if c.task == "arc_easy" {
			first = good
		}
		path := writeFile(t, "bad.jsonl", first+"\n\n"+c.line+"\n")
		_, err := definition(t, c.task).Load(path)
		line := ":3: "
		if c.task != "arc_easy" {
			line = ":1: "
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path+line) || !strings.Contains(err.Error(), c.task) {
			t.Errorf("%s %s: error %v, want one with %q and %q", c.task, c.line, err, c.want, path+line)
		}
	}
	for text, want := range map[string]string{"": "no record", "\n \n": "no record"} {
		if _, err := definition(t, "boolq").Load(writeFile(t, "empty.jsonl", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func TestLambadaText(t *testing.T) {
	for text, want := range map[string]eval.Pair{
		"a b":   {Context: "a", Continuation: " b"},
		"a  b":  {Context: "a ", Continuation: " b"}, // split(' ') keeps the empty string
		"a b ":  {Context: "a b", Continuation: " "},
		"word":  {Context: "", Continuation: " word"},
		" word": {Context: "", Continuation: " word"},
		"a\nb":  {Context: "", Continuation: " a\nb"},
	} {
		r, err := textRecord("text", text, 1)
		if err != nil {
			t.Fatal(err)
		}
		d, err := lambadaDoc(r)
		if err != nil || d.Pairs[0] != want {
			t.Errorf("%q: %+v, %v", text, d.Pairs, err)
		}
	}
}

func TestPlainText(t *testing.T) {
	task, err := definition(t, "lambada_standard").Load(writeFile(t, "plain.txt", "{ a brace\r\nlast line"))
	if err != nil {
		t.Fatal(err)
	}
	if got := []eval.Pair{task.Docs[0].Pairs[0], task.Docs[1].Pairs[0]}; got[0].Continuation != " brace" || got[1].Continuation != " line" {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{"a b\n\nc d\n": ":2: ", "a b\n\xff\n": ":2: "} {
		if _, err := definition(t, "lambada_standard").Load(writeFile(t, "plain.txt", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func TestFind(t *testing.T) {
	names := func(name string) (out []string) {
		found, err := Find(name)
		if err != nil {
			t.Error(err)
		}
		for _, d := range found {
			out = append(out, d.Name)
		}
		return out
	}
	musr := []string{"musr_murder_mysteries", "musr_object_placements", "musr_team_allocation"}
	for name, want := range map[string][]string{
		"boolq": {"boolq"}, "musr": musr, "leaderboard_musr": musr, "leaderboard_musr_object_placements": musr[1:2],
	} {
		if diff := cmp.Diff(want, names(name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	_, err := Find("bolq")
	if usage := new(eval.UsageError); !errors.As(err, &usage) || !strings.Contains(err.Error(), "boolq") {
		t.Errorf("error %v", err)
	}
	for _, name := range Names() {
		names(name)
	}
	for _, name := range []string{"arc_easy", "arc_challenge", "boolq", "lambada_openai", "lambada_standard", "musr", "hellaswag", "piqa", "winogrande", "openbookqa", "wikitext"} {
		names(name)
	}
}

func TestData(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "piqa"), 0o777); err != nil {
		t.Fatal(err)
	}
	hub := filepath.Join(dir, "piqa", "validation-00000-of-00001.parquet")
	if err := os.WriteFile(hub, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	piqa := definition(t, "piqa")
	if got, err := (Data{Dir: dir}).find(piqa); err != nil || got != hub {
		t.Errorf("%q, %v", got, err)
	}
	files, err := ParseFiles([]string{"piqa=x=y", "leaderboard_musr_team_allocation=z"})
	if err != nil || files["piqa"] != "x=y" || files["musr_team_allocation"] != "z" {
		t.Errorf("%v, %v", files, err)
	}
	if got, err := (Data{Dir: dir, Files: files}).find(piqa); err != nil || got != "x=y" {
		t.Errorf("%q, %v", got, err)
	}
	for _, d := range []Data{{}, {Dir: dir}} {
		_, err := Open([]string{"boolq"}, d)
		if usage := new(eval.UsageError); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--data boolq=FILE") {
			t.Errorf("%+v: error %v", d, err)
		}
	}
	for value, want := range map[string]string{"piqa": "TASK=FILE", "=x": "TASK=FILE", "piqa=": "TASK=FILE", "no=x": "unknown task", "musr=x": "group"} {
		if _, err := ParseFiles([]string{value}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--data %s: error %v", value, err)
		}
	}
	if _, err := ParseFiles([]string{"piqa=x", "piqa=y"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("twice: error %v", err)
	}
}

func TestParseSamples(t *testing.T) {
	got, err := ParseSamples(`{"leaderboard_musr_team_allocation": [1], "mine": [2, 0]}`)
	if diff := cmp.Diff(map[string][]int{"musr_team_allocation": {1}, "mine": {2, 0}}, got); err != nil || diff != "" {
		t.Error(diff, err)
	}
	for _, text := range []string{
		``, `null`, `[1]`, `{"a": 1}`, `{"a": [0.5]}`, `{"leaderboard_musr_team_allocation": [1], "musr_team_allocation": [2]}`,
	} {
		_, err := ParseSamples(text)
		if usage := new(eval.UsageError); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--samples") {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestTextTask(t *testing.T) {
	task, err := TextTask(writeFile(t, "a.txt", "één twee"), 16)
	if err != nil || task.Name != "text" || task.Window != 16 || task.Docs[0].Words != 2 || task.Docs[0].Bytes != 10 {
		t.Errorf("%+v, %v", task, err)
	}
	for text, want := range map[string]string{"": "empty", "\xff": "UTF-8"} {
		if _, err := TextTask(writeFile(t, "a.txt", text), 16); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", text, err)
		}
	}
	if _, err := TextTask("a.txt", 1); err == nil || !strings.Contains(err.Error(), "--ctx") {
		t.Errorf("windows of 1: error %v", err)
	}
}
