"""The command `dim-jax density`, for who has not installed it."""

from dim_jax.commands.density import main

if __name__ == '__main__':
  main()
