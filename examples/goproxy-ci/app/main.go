// Command app uses a module that only verified callers may download.
package main

import (
	"fmt"

	"example.com/private/greet"
)

func main() { fmt.Println(greet.Hello()) }
