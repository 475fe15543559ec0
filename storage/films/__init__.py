"""Film readers: a path in, one header row or one array of grey values out."""
