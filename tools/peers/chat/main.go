// Chat renders chat templates for the peer check.
//
//	chat DIR... < CHATS
//
// CHATS is a JSON list of chats, each a list of {role, content}. For each directory and
// chat a line of JSON is written for a prompt without and with the start of the
// assistant's turn: the text, or null if the template refuses the chat.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/coppice-lm/coppice/tokenizer"
)

func main() {
	var chats [][]tokenizer.Message
	if err := json.NewDecoder(os.Stdin).Decode(&chats); err != nil {
		log.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	for _, dir := range os.Args[1:] {
		tok, err := tokenizer.LoadFS(os.DirFS(dir))
		if err != nil {
			log.Fatal(err)
		}
		for _, chat := range chats {
			for _, generate := range []bool{false, true} {
				var result any
				if text, err := tok.Chat(chat, generate); err == nil {
					result = text
				}
				if err := out.Encode(result); err != nil {
					log.Fatal(err)
				}
			}
		}
	}
}
