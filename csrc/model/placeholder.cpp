// The first source of the model takes the place of this file.
