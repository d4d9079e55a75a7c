"""The command `dim-jax runs`, for who has not installed it."""

from dim_jax.commands.runs import main

if __name__ == '__main__':
  main()
