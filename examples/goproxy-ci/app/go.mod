module example.com/app

go 1.21

require example.com/private/greet v1.2.3
