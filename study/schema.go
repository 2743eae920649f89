package study

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON schema (2020-12) of study files, for editors. It is made from the tags
// that the reader goes by.
func Schema() []byte {
	root := schemaOf(reflect.TypeFor[Study](), "")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Coppice study"
	// Exactly one way to say how much goes.
	var ways []any
	for _, key := range sizeKeys {
		ways = append(ways, map[string]any{"required": []string{key}})
	}
	root["oneOf"] = ways
	root["anyOf"] = []any{map[string]any{"required": []string{"tasks"}}, map[string]any{"required": []string{"text"}}}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps, lists and texts: cannot fail
	}
	return append(b, '\n')
}

func schemaOf(t reflect.Type, tag reflect.StructTag) map[string]any {
	s := map[string]any{}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), tag)
	case reflect.Struct:
		properties, required := map[string]any{}, []string{}
		for _, f := range fieldsOf(t) {
			name := f.Tag.Get("yaml")
			p := schemaOf(f.Type, f.Tag)
			p["description"] = f.Tag.Get("doc")
			properties[name] = p
			if f.Tag.Get("required") != "" {
				required = append(required, name)
			}
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
		if len(required) > 0 {
			s["required"] = required
		}
		return s
	case reflect.Slice:
		s["type"], s["items"], s["minItems"] = "array", schemaOf(t.Elem(), tag), 1
		return s
	case reflect.String:
		s["type"], s["minLength"] = "string", 1
	case reflect.Float64:
		s["type"] = "number"
	default:
		s["type"] = "integer"
		if t.Kind() == reflect.Uint64 {
			s["minimum"] = 0
		}
	}
	if enum := tag.Get("enum"); enum != "" {
		var values []any
		for _, v := range strings.Split(enum, ",") {
			if n, err := strconv.Atoi(v); err == nil && t.Kind() == reflect.Int {
				values = append(values, n)
			} else {
				values = append(values, v)
			}
		}
		s["enum"] = values
	}
	for _, b := range bounds {
		if limit := tag.Get(b.tag); limit != "" {
			s[b.schema] = json.Number(limit)
		}
	}
	return s
}
